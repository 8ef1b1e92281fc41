/* The bytes of one connection in the edge, both ways: the twin of `_edge/_flow.Flow`.

   It owns references to both sockets and the TLS, and what one side has sent that the other has no room
   for.  OpenSSL is called itself, which receives from here and sends by itself (`openssl.c`), or by the
   methods of Python's `ssl` and two buffers.  What is not a byte that passes goes to methods of the
   subclass, which say what becomes of it. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <structmember.h>
#include <sys/epoll.h>

/* `CHUNK`, `_HEADER`, `_LONGEST`, `_MOST_UNSENT` and `_AT_ONCE` of `_edge/_flow.py`. */
enum {
    MOST = 16384, RECORD_HEADER = 5, LONGEST = MOST + 320, MOST_UNSENT = 4 * MOST, IN_A_ROW = 16,
    LITTLE = 1024
};

/* What passes through is never in these for longer than a call: an edge has one thread. */
static char plaintext[MOST];
static char ciphertext[RECORD_HEADER + LONGEST];

int
flow_prepare(State *state)
{
    state->plaintext = PyMemoryView_FromMemory(plaintext, sizeof(plaintext), PyBUF_WRITE);
    state->record_size = PyLong_FromLong(MOST);
    return state->plaintext && state->record_size ? 0 : -1;
}

static PyObject *
name_of(const Flow *flow, int which)
{
    return flow->state->names[which];
}

static int
is_over(const Flow *flow)
{
    return flow->in_ended && flow->out_ended;
}

/* Add to what is held; -1: there is no memory.  The global lock is not asked for. */
static int
hold(Held *held, const char *data, Py_ssize_t size)
{
    char *joined;

    if (!size) {
        return 0;
    }
    joined = PyMem_RawMalloc((size_t)(held->size + size));
    if (!joined) {
        return -1;
    }
    if (held->size) {
        memcpy(joined, held->data + held->at, (size_t)held->size);
    }
    memcpy(joined + held->size, data, (size_t)size);
    PyMem_RawFree(held->data);
    *held = (Held){joined, 0, held->size + size};
    return 0;
}

/* Hold so many less, from the first on. */
static void
let_go(Held *held, Py_ssize_t count)
{
    held->at += count;
    held->size -= count;
    if (!held->size) {
        PyMem_RawFree(held->data);
        *held = (Held){NULL, 0, 0};
    }
}

static int
no_memory(void)
{
    PyErr_NoMemory();
    return -1;
}

/* Send what there is room for: how much that was; -1: nobody is there any more. */
static Py_ssize_t
send_some(int fd, const char *data, Py_ssize_t size)
{
    Py_ssize_t count;

    do {
        count = send(fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : count;
}

/* Have a method of the subclass say what becomes of the connection. */
static int
tell(Flow *flow, int which)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)flow, name_of(flow, which));

    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int
tell_word(Flow *flow, int which, PyObject *word)
{
    PyObject *done = PyObject_CallMethodOneArg((PyObject *)flow, name_of(flow, which), word);

    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int
cut(Flow *flow)
{
    return tell_word(flow, CUT, name_of(flow, RESET_WORD));
}

/* Note how many records are whole with what has come. */
static void
note_records(Flow *flow, const char *data, Py_ssize_t size)
{
    Py_ssize_t at = 0, step;

    while (at < size && flow->framed) {
        if (!flow->missing) {
            flow->header[flow->begun++] = (unsigned char)data[at++];
            flow->tail++;
            if (flow->begun < RECORD_HEADER) {
                continue;
            }
            flow->missing = flow->header[3] << 8 | flow->header[4];
            flow->begun = 0;
            flow->framed = flow->missing <= LONGEST;
        }
        step = flow->missing < size - at ? flow->missing : size - at;
        at += step;
        flow->missing -= step;
        flow->tail += step;
        if (!flow->missing) {
            flow->whole++;
            flow->tail = 0;
        }
    }
    if (!flow->framed) {
        flow->whole = 1;
        flow->tail = 0;
    }
}

/* Call a method of one of OpenSSL's that takes bytes. */
static PyObject *
called_with(PyObject *call, PyObject *of, const char *data, Py_ssize_t size)
{
    /* To copy a little takes less than to make a view of it. */
    PyObject *given = size <= LITTLE ? PyBytes_FromStringAndSize(data, size)
                                     : PyMemoryView_FromMemory((char *)data, size, PyBUF_READ);
    PyObject *done;

    if (!given) {
        return NULL;
    }
    done = of ? PyObject_CallMethodOneArg(of, call, given) : PyObject_CallOneArg(call, given);
    Py_DECREF(given);
    return done;
}

/* Have OpenSSL find what has come; it stays where it is until the end of the turn. */
static int
put(Flow *flow, const char *data, Py_ssize_t size)
{
    if (flow->tls.ssl) {
        flow->fresh = data;
        flow->fresh_size = size;
    } else {
        PyObject *done = called_with(name_of(flow, WRITE), flow->incoming, data, size);

        if (!done) {
            return -1;
        }
        Py_DECREF(done);
    }
    note_records(flow, data, size);
    return 0;
}

/* Have what OpenSSL has not taken be there in the next turn. */
static int
hold_fresh(Flow *flow)
{
    int failed = hold(&flow->rest, flow->fresh, flow->fresh_size);

    flow->fresh_size = 0;
    return failed ? no_memory() : 0;
}

Py_ssize_t
flow_take_cipher(Flow *flow, char *data, Py_ssize_t size)
{
    Py_ssize_t count;

    if (flow->rest.size) {
        count = size < flow->rest.size ? size : flow->rest.size;
        memcpy(data, flow->rest.data + flow->rest.at, (size_t)count);
        let_go(&flow->rest, count);
    } else {
        count = size < flow->fresh_size ? size : flow->fresh_size;
        if (count) {
            memcpy(data, flow->fresh, (size_t)count);
            flow->fresh += count;
            flow->fresh_size -= count;
        }
    }
    return count;
}

int
flow_send_cipher(Flow *flow, const char *data, Py_ssize_t size)
{
    Py_ssize_t count = 0;

    if (flow->lost || flow->client_fd < 0) {
        return -1;
    }
    if (!flow->cipher.size) {
        count = send_some(flow->client_fd, data, size);
        if (count < 0) {
            flow->lost = 1;
            return -1;
        }
        if (count < size) {
            flow->client_takes = 0;
        }
    }
    return hold(&flow->cipher, data + count, size - count);
}

/* Each of the following returns whether to go on; -1: an error is set. */

/* Take ciphertext in. */
static int
feed(Flow *flow)
{
    Py_ssize_t room = (Py_ssize_t)sizeof(ciphertext) - flow->tail, count;

    if (!flow->client_says || flow->cipher.size > MOST_UNSENT) {
        return 0;
    }
    if (hold_fresh(flow) < 0) {
        return -1;
    }
    do {
        count = recv(flow->client_fd, ciphertext, (size_t)room, MSG_DONTWAIT);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return cut(flow);
        }
        flow->client_says = 0;
        return 0;
    }
    if (!count) {
        return tell_word(flow, END_IN, name_of(flow, TRUNCATED_WORD));
    }
    if (count < room && !flow->client_ends) {
        flow->client_says = 0; /* that was all; what comes is told of */
    }
    return put(flow, ciphertext, count) < 0 ? -1 : 1;
}

/* Give plaintext to the worker: how much it has taken; -1: nobody reads there any more. */
static Py_ssize_t
give(Flow *flow, const char *data, Py_ssize_t size)
{
    Py_ssize_t count = send_some(flow->plain_fd, data, size);

    if (count < 0) {
        /* What is still sent to the client is heard of by its EOF. */
        flow->in_ended = 1;
        flow->plain_says = 1;
        return -1;
    }
    flow->given += (unsigned long long)count;
    if (count < size) {
        flow->plain_takes = 0;
        if (flow->epoll >= 0) {
            /* From now on: who has once been slow may be so again. */
            int epoll = flow->epoll;

            flow->epoll = -1;
            if (relay_loop_watch(epoll, flow->plain_fd, 1) < 0) {
                flow->plain_takes = 1; /* rather try in vain than never again */
            }
        }
    }
    return count;
}

static int
give_left(Flow *flow)
{
    Py_ssize_t count = give(flow, flow->left.data + flow->left.at, flow->left.size);

    let_go(&flow->left, count < 0 ? flow->left.size : count);
    return count >= 0 && !flow->left.size;
}

/* What comes of an error of OpenSSL's: whether it may have plaintext when more has come. */
static int
read_failed(Flow *flow)
{
    PyObject *kind, *error, *trace, *answer;
    int more;

    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return -1;
    }
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    answer = PyObject_CallMethodOneArg((PyObject *)flow, name_of(flow, READ_FAILED), error);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    more = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return more;
}

/* What comes of it when OpenSSL, called itself, has no plaintext. */
static int
has_no_plaintext(Flow *flow, Py_ssize_t word)
{
    if (flow->lost) {
        return cut(flow); /* it had an answer to send */
    }
    switch (word) {
    case TLS_WANTS_MORE: return feed(flow);
    case TLS_HAS_ENDED: return tell_word(flow, END_IN, Py_None);
    default: return tell(flow, REFUSE);
    }
}

/* Take plaintext of one record in, by the methods of the TLS: how much. */
static Py_ssize_t
read_by_method(Flow *flow)
{
    Py_ssize_t count;
    PyObject *told = PyObject_Vectorcall(
        flow->read, (PyObject *[]){flow->state->record_size, flow->state->plaintext}, 2, NULL);

    if (!told) {
        return -1;
    }
    count = PyLong_AsSsize_t(told);
    Py_DECREF(told);
    if ((count < 0 || count > MOST) && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError, "more was read than there is room for");
    }
    return count > MOST ? -1 : count;
}

/* Take plaintext of one record in. */
static int
decrypt(Flow *flow)
{
    Py_ssize_t count, given;

    if (!flow->whole) {
        return feed(flow);
    }
    if (flow->tls.ssl) {
        count = openssl_read(&flow->tls, plaintext, MOST);
        if (count <= 0) {
            flow->whole = 0; /* they were of another kind */
            return has_no_plaintext(flow, count);
        }
    } else {
        count = read_by_method(flow);
        if (count < 0) {
            int more = read_failed(flow);

            flow->whole = 0;
            return more > 0 ? feed(flow) : more;
        }
    }
    flow->whole -= flow->framed;
    if (!count) {
        return tell_word(flow, END_IN, Py_None) < 0 ? -1 : 1;
    }
    given = give(flow, plaintext, count);
    if (given >= 0 && hold(&flow->left, plaintext + given, count - given) < 0) {
        return no_memory();
    }
    return 1;
}

static int
inward(Flow *flow)
{
    for (int turn = 0; turn < IN_A_ROW; turn++) {
        int more;

        if (flow->left.size) {
            more = flow->plain_takes ? give_left(flow) : 0;
        } else {
            more = flow->in_ended ? 0 : decrypt(flow);
        }
        if (more <= 0) {
            return more;
        }
    }
    return 1;
}

/* Have what OpenSSL has made for its buffer be among what is to be sent. */
static int
collect(Flow *flow)
{
    PyObject *made = PyObject_CallMethodNoArgs(flow->outgoing, name_of(flow, READ_BYTES));
    int failed;

    if (!made) {
        return -1;
    }
    if (!PyBytes_CheckExact(made)) {
        Py_DECREF(made);
        PyErr_SetString(PyExc_TypeError, "a buffer of OpenSSL's has bytes");
        return -1;
    }
    failed = hold(&flow->cipher, PyBytes_AS_STRING(made), PyBytes_GET_SIZE(made));
    Py_DECREF(made);
    return failed ? no_memory() : 0;
}

/* Send ciphertext; whether none is left. */
static int
flush(Flow *flow)
{
    Py_ssize_t count;

    if (!flow->tls.ssl && collect(flow) < 0) {
        return -1;
    }
    if (!flow->cipher.size) {
        return flow->lost ? cut(flow) : 1;
    }
    count = send_some(flow->client_fd, flow->cipher.data + flow->cipher.at, flow->cipher.size);
    if (count < 0) {
        return cut(flow);
    }
    let_go(&flow->cipher, count);
    if (flow->cipher.size) {
        flow->client_takes = 0;
    }
    return !flow->cipher.size;
}

/* Have plaintext be ciphertext; whether the connection goes on. */
static int
encipher(Flow *flow, const char *data, Py_ssize_t size)
{
    PyObject *done;

    if (flow->tls.ssl) {
        return openssl_write(&flow->tls, data, size) < 0 ? cut(flow) : 1;
    }
    done = called_with(flow->write, NULL, data, size);
    if (done) {
        Py_DECREF(done);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return -1;
    }
    PyErr_Clear();
    return cut(flow);
}

/* Take what the worker has sent. */
static int
encrypt(Flow *flow)
{
    Py_ssize_t count;
    int more;

    if (!flow->plain_says) {
        return 0;
    }
    do {
        count = recv(flow->plain_fd, plaintext, sizeof(plaintext), MSG_DONTWAIT);
    } while (count < 0 && errno == EINTR);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        flow->plain_says = 0;
        return 0;
    }
    if (count <= 0) { /* below 0: it was closed with bytes that nobody had read */
        return tell(flow, WORKER_ENDED);
    }
    if (count < MOST && !flow->plain_ends) {
        flow->plain_says = 0;
    }
    flow->taken += (unsigned long long)count;
    more = encipher(flow, plaintext, count);
    if (more <= 0) {
        return more;
    }
    return flow->tls.ssl ? !flow->cipher.size : flush(flow);
}

static int
outward(Flow *flow)
{
    for (int turn = 0; turn < IN_A_ROW; turn++) {
        int more = 1;

        if (flow->cipher.size) {
            more = flow->client_takes ? flush(flow) : 0;
        }
        if (more > 0 && flow->notified) {
            more = tell(flow, FINISH_OUT) < 0 ? -1 : 1;
        }
        if (more > 0) {
            more = flow->out_ended ? 0 : encrypt(flow);
        }
        if (more <= 0) {
            return more;
        }
    }
    return 1;
}

int
flow_carry(Flow *flow, int epoll, int told)
{
    /* A Unix socket tells of room with each read of its other end, and most have room at all times. */
    int wanted = !flow->plain_takes;

    if (told != wanted && relay_loop_watch(epoll, flow->plain_fd, wanted) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    flow->epoll = wanted ? -1 : epoll;
    return 0;
}

void
flow_note(Flow *flow, int fd, uint32_t events)
{
    const int ends = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    const int says = ends || events & EPOLLIN;
    const int takes = (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;

    if (fd == flow->client_fd) {
        flow->client_says |= says;
        flow->client_ends |= ends;
        flow->client_takes |= takes;
    } else {
        flow->plain_says |= says;
        flow->plain_ends |= ends;
        flow->plain_takes |= takes;
    }
}

int
flow_go_on(Flow *flow)
{
    int out = 0, in = 0;

    if (flow->client_fd < 0) {
        return 0;
    }
    if (flow->plain_says || flow->cipher.size || flow->notified) {
        out = outward(flow);
        if (out < 0) {
            return -1;
        }
    }
    if (flow->client_says || flow->left.size || flow->whole) {
        in = inward(flow);
        if (hold_fresh(flow) < 0 || in < 0) {
            return -1;
        }
    }
    if (flow->deserted && flow->out_ended) {
        flow->in_ended = 1; /* there is nobody to read what still comes */
    }
    return (in || out) && !is_over(flow);
}

int
flow_is_over(const Flow *flow)
{
    return is_over(flow);
}

static PyObject *
Flow_go_on(Flow *flow, PyObject *Py_UNUSED(ignored))
{
    int more = flow_go_on(flow);

    return more < 0 ? NULL : PyBool_FromLong(more);
}

static PyObject *
Flow_flush(Flow *flow, PyObject *Py_UNUSED(ignored))
{
    int all = flow->client_fd < 0 ? 0 : flush(flow);

    return all < 0 ? NULL : PyBool_FromLong(all);
}

/* Have the close_notify made by a method.  What the client has sent is held back meanwhile. */
static int
notify_by_method(Flow *flow)
{
    PyObject *held = PyObject_CallMethodNoArgs(flow->incoming, name_of(flow, READ_BYTES));
    PyObject *done = held ? PyObject_CallMethodNoArgs(flow->object, name_of(flow, UNWRAP)) : NULL;

    if (held && !done && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear(); /* it wants the client's, which comes when it comes */
        done = Py_NewRef(Py_None);
    }
    if (done && PyObject_IsTrue(held)) {
        Py_DECREF(done);
        done = PyObject_CallMethodOneArg(flow->incoming, name_of(flow, WRITE), held);
    }
    Py_XDECREF(held);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static PyObject *
Flow_notify(Flow *flow, PyObject *Py_UNUSED(ignored))
{
    if (flow->tls.ssl) {
        openssl_notify(&flow->tls);
    } else if (flow->state && notify_by_method(flow) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
noted(Flow *flow, int fd, PyObject *given)
{
    unsigned long events = PyLong_AsUnsignedLong(given);

    if (events == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    flow_note(flow, fd, (uint32_t)events);
    Py_RETURN_NONE;
}

static PyObject *
Flow_note_client(Flow *flow, PyObject *events)
{
    return noted(flow, flow->client_fd, events);
}

static PyObject *
Flow_note_plain(Flow *flow, PyObject *events)
{
    return noted(flow, flow->plain_fd, events);
}

static PyObject *
Flow_close(Flow *flow, PyObject *Py_UNUSED(ignored))
{
    PyObject *client, *plain;

    flow->client_fd = flow->plain_fd = flow->epoll = -1;
    client = PyObject_CallMethod(flow->sock, "close", NULL);
    plain = client ? PyObject_CallMethod(flow->plain, "close", NULL) : NULL;
    Py_XDECREF(client);
    Py_XDECREF(plain);
    return core_done(!plain);
}

static PyObject *
Flow_held(Flow *flow, void *Py_UNUSED(closure))
{
    Py_ssize_t size = flow->rest.size;

    if (flow->incoming) {
        PyObject *pending = PyObject_GetAttrString(flow->incoming, "pending");

        size = pending ? PyLong_AsSsize_t(pending) : -1;
        Py_XDECREF(pending);
    }
    return size < 0 ? NULL : PyLong_FromSsize_t(flow->left.size + flow->cipher.size + size);
}

static PyObject *
Flow_unsent(Flow *flow, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(flow->cipher.size);
}

static PyObject *
Flow_over(Flow *flow, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_over(flow));
}

/* Have what a buffer of the handshake has be where the flow has it. */
static int
take_over(Flow *flow, PyObject *buffer, int (*have)(Flow *, const char *, Py_ssize_t))
{
    PyObject *data = PyObject_CallMethodNoArgs(buffer, name_of(flow, READ_BYTES));
    int failed = -1;

    if (data && !PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "a buffer of OpenSSL's has bytes");
    } else if (data) {
        failed = have(flow, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
    }
    Py_XDECREF(data);
    return failed;
}

static int
have_come(Flow *flow, const char *data, Py_ssize_t size)
{
    return put(flow, data, size) < 0 || hold_fresh(flow) < 0 ? -1 : 0;
}

static int
have_unsent(Flow *flow, const char *data, Py_ssize_t size)
{
    return hold(&flow->cipher, data, size) < 0 ? no_memory() : 0;
}

/* Have Python's methods be called, or OpenSSL itself. */
static int
begin_tls(Flow *flow, PyObject *incoming, PyObject *outgoing)
{
    if (openssl_is_spoken_with()) {
        return take_over(flow, outgoing, have_unsent) < 0 ||
                       openssl_begin(&flow->tls, flow->object, flow) < 0
                   ? -1
                   : take_over(flow, incoming, have_come);
    }
    flow->read = PyObject_GetAttrString(flow->object, "read");
    flow->write = flow->read ? PyObject_GetAttr(flow->object, name_of(flow, WRITE)) : NULL;
    if (!flow->write) {
        return -1;
    }
    flow->incoming = Py_NewRef(incoming);
    flow->outgoing = Py_NewRef(outgoing);
    return take_over(flow, incoming, have_come);
}

static int
Flow_init(Flow *flow, PyObject *args, PyObject *keywords)
{
    PyObject *sock, *tls, *incoming, *outgoing, *plain, *unsent;
    int client_fd, plain_fd;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Flow() takes no keyword arguments");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOOOS:Flow", &sock, &tls, &incoming, &outgoing, &plain, &unsent)) {
        return -1;
    }
    if (flow->state) {
        PyErr_SetString(PyExc_TypeError, "a flow begins once");
        return -1;
    }
    client_fd = PyObject_AsFileDescriptor(sock);
    plain_fd = client_fd < 0 ? -1 : PyObject_AsFileDescriptor(plain);
    if (plain_fd < 0) {
        return -1;
    }
    flow->state = PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(flow), &core_module));
    flow->sock = Py_NewRef(sock);
    flow->plain = Py_NewRef(plain);
    flow->object = Py_NewRef(tls);
    flow->client_says = flow->plain_says = 1;
    flow->client_takes = flow->plain_takes = 1;
    flow->framed = 1;
    if (have_unsent(flow, PyBytes_AS_STRING(unsent), PyBytes_GET_SIZE(unsent)) < 0 ||
        begin_tls(flow, incoming, outgoing) < 0) {
        return -1;
    }
    flow->client_fd = client_fd;
    flow->plain_fd = plain_fd;
    return 0;
}

static PyObject *
Flow_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    Flow *flow = (Flow *)type->tp_alloc(type, 0);

    if (flow) {
        flow->client_fd = flow->plain_fd = flow->epoll = -1; /* until it has begun, it has nothing to move */
    }
    return (PyObject *)flow;
}

static int
Flow_traverse(Flow *flow, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(flow));
    Py_VISIT(flow->sock);
    Py_VISIT(flow->plain);
    Py_VISIT(flow->object);
    Py_VISIT(flow->incoming);
    Py_VISIT(flow->outgoing);
    Py_VISIT(flow->read);
    Py_VISIT(flow->write);
    return 0;
}

static int
Flow_clear(Flow *flow)
{
    flow->client_fd = flow->plain_fd = flow->epoll = -1;
    Py_CLEAR(flow->sock);
    Py_CLEAR(flow->plain);
    openssl_end(&flow->tls);
    Py_CLEAR(flow->object);
    Py_CLEAR(flow->incoming);
    Py_CLEAR(flow->outgoing);
    Py_CLEAR(flow->read);
    Py_CLEAR(flow->write);
    let_go(&flow->rest, flow->rest.size);
    let_go(&flow->left, flow->left.size);
    let_go(&flow->cipher, flow->cipher.size);
    return 0;
}

static void
Flow_dealloc(Flow *flow)
{
    PyTypeObject *type = Py_TYPE(flow);

    PyObject_GC_UnTrack(flow);
    Flow_clear(flow);
    type->tp_free(flow);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"note_client", (PyCFunction)Flow_note_client, METH_O, "Note what the client's side is ready for."},
    {"note_plain", (PyCFunction)Flow_note_plain, METH_O, "Note what the worker's side is ready for."},
    {"go_on", (PyCFunction)Flow_go_on, METH_NOARGS, "Move what can be moved; whether there is more."},
    {"close", (PyCFunction)Flow_close, METH_NOARGS, "Let go of both sides."},
    {"_notify", (PyCFunction)Flow_notify, METH_NOARGS, "Make the close_notify."},
    {"_flush", (PyCFunction)Flow_flush, METH_NOARGS, "Send ciphertext; whether none is left."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"sock", T_OBJECT_EX, offsetof(Flow, sock), READONLY, "The client's side."},
    {"plain", T_OBJECT_EX, offsetof(Flow, plain), READONLY, "The worker's side."},
    {"taken", T_ULONGLONG, offsetof(Flow, taken), READONLY, "Bytes that came from the plain end."},
    {"given", T_ULONGLONG, offsetof(Flow, given), READONLY, "Bytes that went to it."},
    {"in_ended", T_BOOL, offsetof(Flow, in_ended), 0, "Nothing comes from the client any more."},
    {"out_ended", T_BOOL, offsetof(Flow, out_ended), 0, "Nothing goes to the client any more."},
    {"deserted", T_BOOL, offsetof(Flow, deserted), 0, "Nobody has the worker's end any more."},
    {"_notified", T_BOOL, offsetof(Flow, notified), 0, NULL},
    {"_plain_says", T_BOOL, offsetof(Flow, plain_says), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"held", (getter)Flow_held, NULL, "How many bytes are held, in whatever form.", NULL},
    {"unsent", (getter)Flow_unsent, NULL, "How many bytes of ciphertext are to be sent.", NULL},
    {"over", (getter)Flow_over, NULL, "Whether nothing passes any more.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Flow_new},
    {Py_tp_init, Flow_init},
    {Py_tp_dealloc, Flow_dealloc},
    {Py_tp_traverse, Flow_traverse},
    {Py_tp_clear, Flow_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {Py_tp_doc, "The twin of `_edge._flow.Flow`."},
    {0, NULL},
};

PyType_Spec flow_spec = {
    .name = "socketkeep._native._core.Flow",
    .basicsize = sizeof(Flow),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
