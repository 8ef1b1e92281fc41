/* The limit: one process, epoll, non-blocking sockets. */
#include "echo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>

struct client {
    int fd;
    size_t kept; /* bytes that are still to be sent back */
    char *left;
};

static int poller;

static void drop(struct client *client)
{
    close(client->fd);
    free(client->left);
    free(client);
}

static void watch(struct client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = client}};
    if (epoll_ctl(poller, operation, client->fd, &event) < 0)
        die("epoll_ctl");
}

/* Send what can be sent; keep the rest, and do not receive until it has gone. */
static void send_back(struct client *client, const char *data, size_t count)
{
    ssize_t sent = send(client->fd, data, count, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        drop(client);
        return;
    }
    size_t gone = sent < 0 ? 0 : (size_t)sent;
    if (gone == count) {
        if (client->kept) {
            client->kept = 0;
            watch(client, EPOLL_CTL_MOD, EPOLLIN);
        }
        return;
    }
    if (!client->left && !(client->left = malloc(BUFFER)))
        die("malloc");
    for (size_t i = 0; i < count - gone; i++) /* may overlap */
        client->left[i] = data[gone + i];
    if (!client->kept)
        watch(client, EPOLL_CTL_MOD, EPOLLOUT);
    client->kept = count - gone;
}

static void serve(struct client *client)
{
    static char data[BUFFER];
    if (client->kept) {
        send_back(client, client->left, client->kept);
        return;
    }
    ssize_t count = recv(client->fd, data, sizeof data, 0);
    if (count > 0)
        send_back(client, data, (size_t)count);
    else if (count == 0 || errno != EAGAIN)
        drop(client);
}

int main(void)
{
    int listener = echo_listen();
    struct epoll_event events[256] = {{.events = EPOLLIN, .data = {.ptr = NULL}}};
    fcntl(listener, F_SETFL, O_NONBLOCK);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, events) < 0)
        die("epoll");
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) {
                serve(events[i].data.ptr);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                struct client *client = calloc(1, sizeof *client);
                if (!client)
                    die("calloc");
                client->fd = fd;
                watch(client, EPOLL_CTL_ADD, EPOLLIN);
            }
        }
    }
}
