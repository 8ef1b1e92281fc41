/* A process for each connection. */
#include "echo.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static void reap(int number)
{
    int saved = errno;
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = saved;
}

int main(void)
{
    int listener = echo_listen();
    struct sigaction action = {.sa_handler = reap, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        pid_t child = fork();
        if (child < 0)
            perror("fork");
        if (child == 0) {
            close(listener);
            echo_blocking(fd, fd);
            _exit(0);
        }
        close(fd);
    }
}
