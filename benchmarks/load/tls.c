/* TLS between a connection and its socket. */
#include "load.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

static SSL_CTX *context(void)
{
    static SSL_CTX *made;
    if (!made) {
        made = SSL_CTX_new(TLS_client_method());
        if (!made || !SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION))
            abort();
        /* Whom it talks to is no question here; what it costs is. */
        SSL_CTX_set_verify(made, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                                   | SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(made, 1);
    }
    return made;
}

void tls_begin(struct conn *conn)
{
    conn->tls = SSL_new(context());
    if (!conn->tls || !SSL_set_fd(conn->tls, conn->fd))
        abort();
    SSL_set_connect_state(conn->tls);
}

/* What send(2) or recv(2) would have returned. */
static long outcome(struct conn *conn, int result, bool *writable)
{
    if (result > 0)
        return result;
    switch (SSL_get_error(conn->tls, result)) {
    case SSL_ERROR_WANT_WRITE: *writable = true; errno = EAGAIN; break;
    case SSL_ERROR_WANT_READ: errno = EAGAIN; break;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default: /* an alert, a record that is none, an end without close_notify, or the socket's */
        ERR_clear_error();
        if (!errno || errno == EAGAIN)
            errno = ECONNRESET;
    }
    return -1;
}

long tls_send(struct conn *conn, const char *data, size_t size, bool *writable)
{
    errno = 0;
    return outcome(conn, SSL_write(conn->tls, data, (int)size), writable);
}

long tls_receive(struct conn *conn, char *data, size_t size)
{
    bool writable = false;
    errno = 0;
    return outcome(conn, SSL_read(conn->tls, data, (int)size), &writable);
}

void tls_end(struct conn *conn)
{
    if (conn->tls) {
        if (conn->fd >= 0 && SSL_is_init_finished(conn->tls))
            SSL_shutdown(conn->tls); /* the word of the end, whatever becomes of it */
        ERR_clear_error();
        SSL_free(conn->tls);
        conn->tls = NULL;
    }
}
