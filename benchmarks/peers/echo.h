/* What the C servers share: a listener on a free port, which is printed, and a blocking echo. */
#ifndef ECHO_H
#define ECHO_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 65536, BACKLOG = 2048 };

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline int echo_listen(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct rlimit limit;
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, BACKLOG) < 0
        || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static inline void echo_blocking(int in, int out)
{
    char data[BUFFER];
    ssize_t count;
    while ((count = read(in, data, sizeof data)) > 0)
        for (ssize_t sent = 0, n; sent < count; sent += n)
            if ((n = write(out, data + sent, (size_t)(count - sent))) < 0)
                return;
}

#endif
