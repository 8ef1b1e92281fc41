/* The load generator: what its parts share. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum mode { SHORT, ECHO, PACED, IDLE };

/* What ended an exchange otherwise than by its reply. */
enum loss {
    REFUSED,   /* connect() failed */
    RESET,     /* RST */
    CUT,       /* FIN in the middle of an exchange */
    CLOSED,    /* FIN while the connection waited for its next request */
    ANNOUNCED, /* FIN after a reply that said so (HTTP's "Connection: close"), or a WebSocket's Close */
    LATE,      /* no whole reply within the deadline */
    WRONG,     /* a byte that is not what it should be */
    LOSSES
};

struct options {
    enum mode mode;
    const char *host;
    int port;
    int connections;
    int at_once;  /* connections that have a request out at a time; 0: all of them */
    size_t size;  /* bytes of a message */
    int batch;    /* messages that are sent at once, and all answered */
    bool lines;   /* messages are lines */
    bool tls;     /* of TLS 1.3, by a full handshake for each connection */
    bool http;    /* requests are GETs, replies are `body` */
    bool websocket; /* messages are of a WebSocket, `size` at most 125 */
    const char *body;
    double seconds;
    double warm;
    double deadline; /* for one exchange, connecting included */
    double think;    /* PACED: between a reply and the next request */
    double arrivals; /* PACED: new short connections a second */
    bool wait;       /* for a byte on standard input before the measurement */
    bool hold;    /* the connections, at the end, until standard input ends */
    const char *samples;
};

enum state { UNUSED, BUSY, RESTING };

struct conn {
    int fd;
    uint32_t id;
    uint32_t sequence;
    enum state state;
    bool writable_wanted;
    bool brief; /* closed after one exchange */
    bool closing;
    size_t sent, got;
    int64_t began; /* of the exchange */
    int64_t due;   /* of the next one, when RESTING */
    struct reply *reply;
    bool upgraded; /* the handshake of a WebSocket is done */
    struct ssl_st *tls;
};

/* A histogram of durations with a resolution of 1/32, from 1 us to hours. */
struct histogram {
    uint64_t count;
    int64_t most;
    uint64_t buckets[64 * 32];
};

struct counts {
    uint64_t exchanges;
    uint64_t opened;
    uint64_t losses[LOSSES];
};

extern struct options options;

/* clock.c */
int64_t now_ns(void); /* CLOCK_MONOTONIC */
double cpu_seconds(void);
void histogram_add(struct histogram *histogram, int64_t duration);
double histogram_quantile(const struct histogram *histogram, double quantile); /* in seconds */

/* message.c */
void messages_make(void);
/* Return what the exchange at hand sends; it is valid until the next call. */
const char *sent_of(const struct conn *conn, size_t *size);

enum verdict { MORE, WHOLE, BAD, OVER };
enum verdict reply_take(struct conn *conn, const char *data, size_t count);

/* conn.c: each returns true if the connection goes on, or sets *loss. */
bool conn_open(struct conn *conn, int epoll, enum loss *loss);
bool conn_begin(struct conn *conn, int epoll, enum loss *loss);
bool conn_send(struct conn *conn, int epoll, enum loss *loss);
bool conn_receive(struct conn *conn, int epoll, bool *done, enum loss *loss);
void conn_close(struct conn *conn);

/* tls.c: as send(2), recv(2) and close(2); they set errno to EAGAIN where they are to be called
 * again when the descriptor is readable, or, if *writable is set, when it is writable. */
void tls_begin(struct conn *conn);
long tls_send(struct conn *conn, const char *data, size_t size, bool *writable);
long tls_receive(struct conn *conn, char *data, size_t size);
void tls_end(struct conn *conn);

/* run.c */
void run(void);
#endif
