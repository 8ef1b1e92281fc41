/* OpenSSL itself, in the library that the interpreter's `ssl` is linked with.

   It owns the functions' addresses, found by their names, and what TLS reads and writes by: a BIO whose
   other side is a flow.  Nothing of OpenSSL is compiled in or linked, so that there is one of it in the
   process.  Whether it is to be had, and where in an object of `ssl` its TLS is, `_edge/_openssl.py` says. */

#include "core.h"

#include <dlfcn.h>

/* Of <openssl/bio.h> and <openssl/ssl.h>, the same in all versions. */
enum {
    BIO_FLUSHES = 11,            /* BIO_CTRL_FLUSH */
    BIO_RETRIES = 0x0f,          /* BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY */
    BIO_WANTS_READ = 0x01 | 0x08, /* BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY */
    BIO_IS_SOURCE_SINK = 0x400 | 0x7f,
    ERROR_WANTS_READ = 2, /* SSL_ERROR_WANT_READ */
    ERROR_HAS_ENDED = 6   /* SSL_ERROR_ZERO_RETURN */
};

static struct {
    int (*SSL_read)(void *, void *, int);
    int (*SSL_write)(void *, const void *, int);
    int (*SSL_shutdown)(void *);
    int (*SSL_get_error)(const void *, int);
    void (*SSL_set_bio)(void *, void *, void *);
    unsigned long (*ERR_peek_error)(void);
    void (*ERR_clear_error)(void);
    void *(*BIO_meth_new)(int, const char *);
    int (*BIO_meth_set_read)(void *, int (*)(void *, char *, int));
    int (*BIO_meth_set_write)(void *, int (*)(void *, const char *, int));
    int (*BIO_meth_set_ctrl)(void *, long (*)(void *, int, long, void *));
    void *(*BIO_new)(const void *);
    int (*BIO_up_ref)(void *);
    int (*BIO_free)(void *);
    void (*BIO_set_init)(void *, int);
    void (*BIO_set_data)(void *, void *);
    void *(*BIO_get_data)(void *);
    void (*BIO_set_flags)(void *, int);
    void (*BIO_clear_flags)(void *, int);
} found;

#define FUNCTION(name) {#name, &found.name}

static const struct {
    const char *name;
    void *address;
} FUNCTIONS[] = {
    FUNCTION(SSL_read),          FUNCTION(SSL_write),         FUNCTION(SSL_shutdown),
    FUNCTION(SSL_get_error),     FUNCTION(SSL_set_bio),       FUNCTION(ERR_peek_error),
    FUNCTION(ERR_clear_error),   FUNCTION(BIO_meth_new),      FUNCTION(BIO_meth_set_read),
    FUNCTION(BIO_meth_set_write), FUNCTION(BIO_meth_set_ctrl), FUNCTION(BIO_new),
    FUNCTION(BIO_up_ref),        FUNCTION(BIO_free),          FUNCTION(BIO_set_init),
    FUNCTION(BIO_set_data),      FUNCTION(BIO_get_data),      FUNCTION(BIO_set_flags),
    FUNCTION(BIO_clear_flags),
};

static void *method;          /* of our BIOs, NULL: `ssl` is spoken with */
static Py_ssize_t place = -1; /* of the TLS in an object of `_ssl` */

/* Of `ssl.SSLObject`: the object of `_ssl`. */
static const char INNER[] = "_sslobj";

static int
bio_read(void *bio, char *data, int size)
{
    Flow *flow = found.BIO_get_data(bio);
    Py_ssize_t count = flow ? flow_take_cipher(flow, data, size) : 0;

    found.BIO_clear_flags(bio, BIO_RETRIES);
    if (!count) {
        found.BIO_set_flags(bio, BIO_WANTS_READ);
        return -1;
    }
    return (int)count;
}

static int
bio_write(void *bio, const char *data, int size)
{
    Flow *flow = found.BIO_get_data(bio);

    found.BIO_clear_flags(bio, BIO_RETRIES);
    return flow && !flow_send_cipher(flow, data, size) ? size : -1;
}

static long
bio_control(void *Py_UNUSED(bio), int command, long Py_UNUSED(number), void *Py_UNUSED(pointer))
{
    return command == BIO_FLUSHES;
}

PyObject *
openssl_speak_with(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *path;
    Py_ssize_t where;
    void *library, *made;

    if (!PyArg_ParseTuple(args, "sn:speak_with_openssl", &path, &where)) {
        return NULL;
    }
    place = -1;
    if (where < 0) {
        Py_RETURN_FALSE;
    }
    /* It is loaded already, and stays. */
    library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) {
        Py_RETURN_FALSE;
    }
    for (size_t each = 0; each < Py_ARRAY_LENGTH(FUNCTIONS); each++) {
        void *address = dlsym(library, FUNCTIONS[each].name);

        if (!address) {
            dlclose(library);
            Py_RETURN_FALSE;
        }
        memcpy(FUNCTIONS[each].address, &address, sizeof(address));
    }
    if (!method) {
        made = found.BIO_meth_new(BIO_IS_SOURCE_SINK, "flow");
        if (!made || !found.BIO_meth_set_read(made, bio_read) ||
            !found.BIO_meth_set_write(made, bio_write) ||
            !found.BIO_meth_set_ctrl(made, bio_control)) {
            Py_RETURN_FALSE;
        }
        method = made;
    }
    place = where;
    Py_RETURN_TRUE;
}

int
openssl_is_spoken_with(void)
{
    return place >= 0;
}

int
openssl_begin(Tls *tls, PyObject *object, Flow *flow)
{
    PyObject *inner = PyObject_GetAttrString(object, INNER);
    void *bio;

    if (!inner) {
        return -1;
    }
    memcpy(&tls->ssl, (char *)inner + place, sizeof(tls->ssl));
    Py_DECREF(inner); /* the object has it as long as it lives */
    bio = tls->ssl ? found.BIO_new(method) : NULL;
    if (!bio) {
        tls->ssl = NULL;
        PyErr_NoMemory();
        return -1;
    }
    found.BIO_set_data(bio, flow);
    found.BIO_set_init(bio, 1);
    found.BIO_up_ref(bio);
    found.SSL_set_bio(tls->ssl, bio, bio); /* takes one of the two references */
    tls->bio = bio;
    return 0;
}

void
openssl_end(Tls *tls)
{
    if (tls->bio) {
        found.BIO_set_data(tls->bio, NULL);
        found.BIO_free(tls->bio);
    }
    *tls = (Tls){NULL, NULL};
}

/* What others have left would be taken for an error of the next call. */
static void
forget_errors(void)
{
    if (found.ERR_peek_error()) {
        found.ERR_clear_error();
    }
}

Py_ssize_t
openssl_read(const Tls *tls, char *data, int size)
{
    int count, error;

    forget_errors();
    count = found.SSL_read(tls->ssl, data, size);
    if (count > 0) {
        return count;
    }
    error = found.SSL_get_error(tls->ssl, count);
    forget_errors();
    return error == ERROR_WANTS_READ ? TLS_WANTS_MORE
           : error == ERROR_HAS_ENDED ? TLS_HAS_ENDED
                                      : TLS_HAS_FAILED;
}

int
openssl_write(const Tls *tls, const char *data, Py_ssize_t size)
{
    while (size > 0) {
        int count = found.SSL_write(tls->ssl, data, (int)size);

        if (count <= 0) {
            forget_errors();
            return -1;
        }
        data += count;
        size -= count;
    }
    return 0;
}

void
openssl_notify(const Tls *tls)
{
    /* Once it has said so it does not read: the client's own word comes when it comes. */
    (void)found.SSL_shutdown(tls->ssl);
    forget_errors();
}
