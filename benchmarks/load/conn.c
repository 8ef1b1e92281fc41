/* One connection: open, send, receive, close. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Ports that are in TIME_WAIT are many when connections are short: take turns with the source
 * addresses, of which loopback has plenty. */
static void take_source(int fd)
{
    enum { SOURCES = 200 };
    static uint32_t turn;
    int on = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % SOURCES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0) {
        perror("load: bind");
        exit(1);
    }
}

static void watch(struct conn *conn, int epoll, int operation, bool writable)
{
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0u)};
    event.data.ptr = conn;
    if (epoll_ctl(epoll, operation, conn->fd, &event) < 0) {
        perror("load: epoll_ctl");
        exit(1);
    }
    conn->writable_wanted = writable;
}

bool conn_open(struct conn *conn, int epoll, enum loss *loss)
{
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) {
        fprintf(stderr, "load: %s is not an IPv4 address\n", options.host);
        exit(2);
    }
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        perror("load: socket");
        exit(1);
    }
    if (ntohl(address.sin_addr.s_addr) >> 24 == 127)
        take_source(conn->fd);
    if (!conn->brief)
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof address) < 0
        && errno != EINPROGRESS) {
        close(conn->fd);
        conn->fd = -1;
        *loss = errno == ECONNRESET ? RESET : REFUSED;
        return false;
    }
    watch(conn, epoll, EPOLL_CTL_ADD, false);
    if (options.tls)
        tls_begin(conn);
    /* On loopback it is usually connected by now; if not, the send is what has to wait. */
    return conn_begin(conn, epoll, loss);
}

bool conn_begin(struct conn *conn, int epoll, enum loss *loss)
{
    conn->sequence++;
    conn->sent = conn->got = 0;
    conn->state = BUSY;
    return conn_send(conn, epoll, loss);
}

bool conn_send(struct conn *conn, int epoll, enum loss *loss)
{
    size_t size;
    const char *data = sent_of(conn, &size);
    while (conn->sent < size) {
        bool writable = !conn->tls;
        ssize_t count = conn->tls
            ? tls_send(conn, data + conn->sent, size - conn->sent, &writable)
            : send(conn->fd, data + conn->sent, size - conn->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN) {
            if (writable != conn->writable_wanted)
                watch(conn, epoll, EPOLL_CTL_MOD, writable);
            return true;
        }
        if (count < 0) {
            *loss = errno == ECONNREFUSED || errno == ETIMEDOUT ? REFUSED : RESET;
            return false;
        }
        conn->sent += (size_t)count;
    }
    if (conn->writable_wanted)
        watch(conn, epoll, EPOLL_CTL_MOD, false);
    return true;
}

static bool receive_once(struct conn *conn, bool *done, bool *more, enum loss *loss)
{
    static char data[1 << 17];
    ssize_t count = conn->tls ? tls_receive(conn, data, sizeof data)
                              : recv(conn->fd, data, sizeof data, 0);
    *more = conn->tls && count > 0; /* of which the descriptor may not tell */
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (count < 0) {
        *loss = errno == ECONNREFUSED || errno == ETIMEDOUT ? REFUSED : RESET;
        return false;
    }
    if (count == 0) {
        *loss = conn->closing ? ANNOUNCED : conn->state == BUSY ? CUT : CLOSED;
        return false;
    }
    enum verdict verdict = reply_take(conn, data, (size_t)count);
    *done = verdict == WHOLE;
    *loss = verdict == OVER ? ANNOUNCED : WRONG;
    return verdict != BAD && verdict != OVER;
}

bool conn_receive(struct conn *conn, int epoll, bool *done, enum loss *loss)
{
    bool more = true;
    *done = false;
    if (conn->tls && conn->state == BUSY && !conn_send(conn, epoll, loss))
        return false; /* in the handshake a send waits for what is received */
    while (more && !*done)
        if (!receive_once(conn, done, &more, loss))
            return false;
    return true;
}

void conn_close(struct conn *conn)
{
    tls_end(conn);
    if (conn->fd >= 0)
        close(conn->fd);
    free(conn->reply);
    conn->reply = NULL;
    conn->fd = -1;
    conn->state = UNUSED;
    conn->writable_wanted = conn->closing = conn->upgraded = false;
}
