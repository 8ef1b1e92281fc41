/* What is sent, and whether what comes back is it.
 *
 * A message differs from the connection's last one, and from what the other connections send at the
 * time, so that a reply that is late, repeated or another connection's is a wrong one.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VARIANTS = 256, MOST_HEAD = 2048, FRAME_HEAD = 6, REPLY_HEAD = 2, MOST_SHORT = 125, CLOSE = 0x88 };

static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
static const char handshake[] =
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

struct reply {
    size_t kept;
    char head[MOST_HEAD];
};

static char *messages;
static size_t stride; /* from one variant to the next */

static size_t message_size(void) /* of all that one exchange sends */
{
    return options.size * (size_t)options.batch;
}

void messages_make(void)
{
    if (options.websocket && message_size() > MOST_SHORT) {
        fprintf(stderr, "load: a message of a WebSocket has %d bytes at most\n", MOST_SHORT);
        exit(2);
    }
    /* Lines begin where lines begin; other bytes may begin anywhere. */
    stride = options.lines ? options.size : 1;
    size_t total = message_size() + VARIANTS * stride;
    messages = malloc(total);
    if (!messages)
        abort();
    uint32_t random = 2463534242u;
    for (size_t i = 0; i < total; i++) {
        random ^= random << 13, random ^= random >> 17, random ^= random << 5;
        messages[i] = options.lines ? (char)('!' + random % 90) : (char)(random >> 8);
        if (options.lines && i % options.size == options.size - 1)
            messages[i] = '\n';
    }
}

static const char *message_of(const struct conn *conn)
{
    return messages + stride * ((conn->id * 37 + conn->sequence) % VARIANTS);
}

/* A binary message in one frame, RFC 6455, section 5.2; the mask of a client's is four zeros. */
static const char *frame_of(const struct conn *conn, size_t head)
{
    static char frame[FRAME_HEAD + MOST_SHORT];
    frame[0] = (char)0x82;
    frame[1] = (char)(message_size() | (head == FRAME_HEAD ? 0x80u : 0));
    memset(frame + REPLY_HEAD, 0, FRAME_HEAD - REPLY_HEAD);
    memcpy(frame + head, message_of(conn), message_size());
    return frame;
}

const char *sent_of(const struct conn *conn, size_t *size)
{
    if (options.http) {
        *size = sizeof request - 1;
        return request;
    }
    if (!options.websocket) {
        *size = message_size();
        return message_of(conn);
    }
    *size = conn->upgraded ? FRAME_HEAD + message_size() : sizeof handshake - 1;
    return conn->upgraded ? frame_of(conn, FRAME_HEAD) : handshake;
}

static enum verdict echo_take(struct conn *conn, const char *data, size_t count)
{
    size_t size = message_size() + (options.websocket ? REPLY_HEAD : 0);
    const char *wanted = options.websocket ? frame_of(conn, REPLY_HEAD) : message_of(conn);
    if (count > size - conn->got || memcmp(wanted + conn->got, data, count) != 0)
        return BAD;
    conn->got += count;
    return conn->got == size ? WHOLE : MORE;
}

static enum verdict http_take(struct conn *conn, const char *data, size_t count)
{
    if (!conn->reply && !(conn->reply = calloc(1, sizeof *conn->reply)))
        abort();
    struct reply *reply = conn->reply;
    if (reply->kept + count >= MOST_HEAD)
        return BAD;
    memcpy(reply->head + reply->kept, data, count);
    reply->kept += count;
    reply->head[reply->kept] = 0;
    char *end = strstr(reply->head, "\r\n\r\n");
    if (!end)
        return MORE;
    size_t body = (size_t)(end + 4 - reply->head), wanted = strlen(options.body);
    if (options.websocket) {
        conn->upgraded = strncmp(reply->head, "HTTP/1.1 101", 12) == 0 && reply->kept == body;
        reply->kept = 0;
        return conn->upgraded ? WHOLE : BAD;
    }
    if (strncmp(reply->head, "HTTP/1.1 200", 12) != 0)
        return BAD;
    if (reply->kept < body + wanted)
        return MORE;
    bool right = reply->kept == body + wanted && memcmp(end + 4, options.body, wanted) == 0;
    *end = 0;
    conn->closing = strcasestr(reply->head, "\r\nconnection: close") != NULL;
    reply->kept = 0;
    return right ? WHOLE : BAD;
}

enum verdict reply_take(struct conn *conn, const char *data, size_t count)
{
    if (conn->upgraded && (conn->state != BUSY || !conn->got) && data[0] == (char)CLOSE)
        return OVER;
    if (conn->state != BUSY) /* nothing was asked */
        return BAD;
    bool by_http = options.http || (options.websocket && !conn->upgraded);
    return by_http ? http_take(conn, data, count) : echo_take(conn, data, count);
}
