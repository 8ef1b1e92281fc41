/* What is sent, and whether what comes back is it.
 *
 * A message differs from the connection's last one, and from what the other connections send at the
 * time, so that a reply that is late, repeated or another connection's is a wrong one.
 */
#include "load.h"

#include <stdlib.h>
#include <string.h>

enum { VARIANTS = 256, MOST_HEAD = 2048 };

struct reply {
    size_t kept;
    char head[MOST_HEAD];
};

static char *messages;
static size_t stride; /* from one variant to the next */

void messages_make(void)
{
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

size_t message_size(void)
{
    return options.size * (size_t)options.batch;
}

const char *message_of(const struct conn *conn)
{
    return messages + stride * ((conn->id * 37 + conn->sequence) % VARIANTS);
}

static enum verdict echo_take(struct conn *conn, const char *data, size_t count)
{
    size_t size = message_size();
    if (count > size - conn->got || memcmp(message_of(conn) + conn->got, data, count) != 0)
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
    if (conn->state != BUSY) /* nothing was asked */
        return BAD;
    return options.http ? http_take(conn, data, count) : echo_take(conn, data, count);
}
