/* The core of a connection: the twin of `_stream/_core.StreamCore`, where the transport is the socket
   itself and what is received is taken from the kernel.

   It owns references to the connection's parts, the descriptor while no socket of Python's has it, and one
   scratch of 64 KiB for all connections, which the interpreter's lock guards.  It makes the calls recv(2)
   and send(2), which cannot block, with that lock held: to hand it over takes longer than most of them.
   All else, TLS, peeking, the end of a connection, is a method of its subclass in Python that is named
   `_slow_...`. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>
#include <unistd.h>

/* How much of what has come is discarded at the end, at a time and so many times. */
enum { DISCARD = 16384, DISCARDS = 4 };

/* Of `_stream/_core.py`. */
enum { NEVER_COMMITTED = 1000 };

/* `_MOST_GATHERED` of `_stream/_shell.py`. */
enum { MOST_GATHERED = 65536 };

/* More than this is sent without the lock: to copy it takes longer than to hand that over. */
enum { LONG_SEND = 32768 };

/* After so much the next is received where it is to stay, not by the scratch: to copy it takes longer
   than to give back what the object did not need. */
enum { MUCH = 8192 };

static char scratch[CHUNK];

int
is_of_type(PyObject *object, PyTypeObject *type, PyTypeObject **known)
{
    int is = PyObject_TypeCheck(object, type);

    if (is && !*known) {
        *known = (PyTypeObject *)Py_NewRef(Py_TYPE(object));
    }
    return is;
}

/* Note the class of a socket, if it has the C function of `_socket` for its `fileno`. */
static void
note_class(State *state, PyObject *sock)
{
    PyObject *method = PyObject_GetAttr((PyObject *)Py_TYPE(sock), state->names[FILENO]);

    if (!method) {
        PyErr_Clear();
        return;
    }
    if (Py_IS_TYPE(method, &PyMethodDescr_Type)) {
        const PyMethodDef *function = ((PyMethodDescrObject *)method)->d_method;

        if (function->ml_flags == METH_NOARGS) {
            state->sockets = (PyTypeObject *)Py_NewRef(Py_TYPE(sock));
            state->fileno = function->ml_meth;
        }
    }
    Py_DECREF(method);
}

/* The socket, which has the descriptor from there on; borrowed.  NULL: an error is set. */
static PyObject *
socket_of(Core *core)
{
    if (!core->sock && core->maker) {
        int fd = core->fd;

        core->fd = -1;
        core->sock = caster_socket(core->maker, fd);
    } else if (!core->sock) {
        PyErr_SetString(PyExc_AttributeError, "sock");
    }
    return core->sock;
}

/* The descriptor, -1 once it is closed.  The socket knows: who closes it tells nobody else. */
int
core_descriptor(Core *core)
{
    PyObject *sock = core->sock, *number = NULL;
    long fd = -1;

    if (!sock && core->maker) {
        return core->fd;
    }
    if (sock && core->state) {
        State *state = core->state;

        Py_INCREF(sock);
        if (!state->sockets) {
            note_class(state, sock);
        }
        number = Py_TYPE(sock) == state->sockets ? state->fileno(sock, NULL)
                                                 : PyObject_CallMethodNoArgs(sock, state->names[FILENO]);
        Py_DECREF(sock);
    }
    if (number) {
        fd = PyLong_AsLong(number);
        Py_DECREF(number);
    }
    if (fd < 0 || fd > INT_MAX) {
        PyErr_Clear();
        return -1;
    }
    return (int)fd;
}

/* Call a method of the subclass: the slow way of what is done here. */
static PyObject *
slow(Core *core, const char *name, PyObject *argument)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)core, name), *result;

    if (!method) {
        return NULL;
    }
    result = argument ? PyObject_CallOneArg(method, argument) : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return result;
}

/* As `slow`, where what it returns does not matter. */
static int
tell(Core *core, const char *name)
{
    PyObject *result = slow(core, name, NULL);

    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Note that a receive comes, and return the descriptor, -1 where there is none; -2: an error is set.
   What may run code of Python's is done here, before there is a place that bytes are received to. */
static int
begin(Core *core)
{
    if (!core->plain_ledger->read && ledger_reading(core->plain_ledger) < 0) {
        return -2;
    }
    return core_descriptor(core);
}

/* How long the ClientHello of TLS is that these bytes begin with: RFC 8446, sections 5.1 and 4.  0: none. */
static Py_ssize_t
client_hello_of(const char *place, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)place;

    if (size < 6 || bytes[0] != 22 || bytes[1] != 3 || bytes[5] != 1) {
        return 0;
    }
    return 5 + (bytes[3] << 8) + bytes[4];
}

/* The one recv(2) there is.  `*code` is the errno. */
static ssize_t
take_in(Core *core, int fd, char *place, size_t size, int *code)
{
    ssize_t count;

    if (fd < 0) {
        *code = EBADF;
        return -1;
    }
    count = recv(fd, place, size, MSG_DONTWAIT);
    *code = errno;
    if (count > 0 && !core->came) {
        core->client_hello = client_hello_of(place, (size_t)count);
    }
    return count;
}

/* Account for bytes that were received, once they are where they belong. */
static int
came(Core *core, ssize_t count)
{
    if (ledger_count(core->plain_ledger, BYTES_IN, core->came += (uint64_t)count) < 0) {
        return -1;
    }
    if (core->receives >= 0 && ++core->receives == NEVER_COMMITTED) {
        return tell(core, "_warn_of_no_commit");
    }
    return 0;
}

/* Account for a receive that brought no bytes: NOTHING, EOF_CAME or FAILED; -1: an error is set. */
static int
none_came(Core *core, ssize_t count, int code)
{
    PyObject *failure;

    if (buffer_untouched(core->plain_buffer) && ledger_read_nothing(core->plain_ledger) < 0) {
        return -1;
    }
    if (count == 0) {
        Life *life = core_life(core);
        PyObject *ended;
        int is_end;

        if (life && !core->tells_end) {
            life->peer_ended |= !life->over; /* as its table has it */
            return EOF_CAME;
        }
        ended = slow(core, "_peer_ended", NULL);
        is_end = ended == Py_True;
        Py_XDECREF(ended);
        return !ended ? -1 : is_end ? EOF_CAME : FAILED;
    }
    if (code == EAGAIN || code == EWOULDBLOCK || code == EINTR) {
        return NOTHING;
    }
    /* It is kept until a receive raises it.  OSError chooses the class by the code. */
    failure = PyObject_CallFunction(PyExc_OSError, "is", code, strerror(code));
    if (!failure) {
        return -1;
    }
    Py_XSETREF(core->failure, failure);
    return FAILED;
}

/* As `core_receive`, after a receive that has brought much. */
static int
receive_much(Core *core, PyObject **data)
{
    ssize_t count;
    int fd = begin(core), code;

    if (fd == -2) {
        return -1;
    }
    *data = PyBytes_FromStringAndSize(NULL, CHUNK);
    if (!*data) {
        return -1;
    }
    count = take_in(core, fd, PyBytes_AS_STRING(*data), CHUNK, &code);
    core->much = count >= MUCH;
    if (count <= 0) {
        Py_CLEAR(*data);
        return none_came(core, count, code);
    }
    if (_PyBytes_Resize(data, count) < 0) {
        return -1;
    }
    if (came(core, count) < 0) {
        Py_CLEAR(*data);
        return -1;
    }
    return ARRIVED;
}

int
core_receive(Core *core, size_t most, PyObject **data)
{
    Buffer *buffer = core->plain_buffer;
    size_t size = buffer->end - buffer->pos;
    ssize_t count;
    int fd, code, kept = 0;

    *data = NULL;
    if (size) {
        *data = buffer_take(buffer, size > most ? most : size);
        return *data ? ARRIVED : -1;
    }
    if (core->much && most >= CHUNK && !core->retains) {
        return receive_much(core, data);
    }
    fd = begin(core);
    if (fd == -2) {
        return -1;
    }
    count = take_in(core, fd, scratch, sizeof scratch, &code);
    if (count <= 0) {
        return none_came(core, count, code);
    }
    core->much = count >= MUCH;
    if ((size_t)count > most) {
        kept = buffer_feed(buffer, scratch, (size_t)count);
        *data = kept < 0 ? NULL : buffer_take(buffer, most);
    } else {
        if (core->retains) {
            kept = buffer_pass_by(buffer, scratch, (size_t)count);
        }
        *data = kept < 0 ? NULL : PyBytes_FromStringAndSize(scratch, count);
    }
    if (*data && came(core, count) < 0) {
        Py_CLEAR(*data);
    }
    return *data ? ARRIVED : -1;
}

static PyObject *
Core_receive(Core *core, PyObject *object)
{
    PyObject *data;
    Py_ssize_t most;

    if (!core_is_plain(core)) {
        return slow(core, "_slow_receive", object);
    }
    most = PyNumber_AsSsize_t(object, NULL);
    if (most < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a number of bytes is not negative");
        }
        return NULL;
    }
    switch (core_receive(core, (size_t)most, &data)) {
    case -1:
        return NULL;
    case ARRIVED:
        return data;
    case EOF_CAME:
        return PyBytes_FromStringAndSize(NULL, 0);
    default:
        Py_RETURN_NONE;
    }
}

int
core_fill(Core *core, size_t size)
{
    Buffer *buffer = core->plain_buffer;
    char *place = scratch;
    ssize_t count;
    int fd, code;

    fd = begin(core);
    if (fd == -2) {
        return -1;
    }
    /* Through the scratch, so that no connection has more memory than what came; what is large is
       received where it is to stay. */
    if (size > sizeof scratch && (place = buffer_prepare(buffer, size)) == NULL) {
        return -1;
    }
    count = take_in(core, fd, place, size, &code);
    if (count <= 0) {
        if (place != scratch) {
            buffer_tidy(buffer);
        }
        return none_came(core, count, code);
    }
    if (place != scratch) {
        buffer_add(buffer, (size_t)count);
    } else if (buffer_feed(buffer, scratch, (size_t)count) < 0) {
        return -1;
    }
    return came(core, count) < 0 ? -1 : ARRIVED;
}

static PyObject *
Core_fill(Core *core, PyObject *object)
{
    Py_ssize_t wanted;
    int result;

    if (!core_is_plain(core)) {
        return slow(core, "_slow_fill", object);
    }
    wanted = PyNumber_AsSsize_t(object, NULL);
    if (wanted < 1) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "to receive is to receive one byte or more");
        }
        return NULL;
    }
    result = core_fill(core, (size_t)wanted);
    return result < 0 ? NULL : PyLong_FromLong(result);
}

Py_ssize_t
core_send(Core *core, const char *data, Py_ssize_t size, int push)
{
    Ledger *ledger = core->plain_ledger;
    ssize_t count = -1;
    int fd, code;

    if (!push && !ledger->sent && ledger_sending(ledger) < 0) {
        return -1;
    }
    fd = core_descriptor(core);
    if (fd < 0) {
        code = EBADF;
    } else if (size > LONG_SEND) {
        Py_BEGIN_ALLOW_THREADS
        count = send(fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        code = errno;
        Py_END_ALLOW_THREADS
    } else {
        count = send(fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        code = errno;
    }
    if (count >= 0) {
        return ledger_count(ledger, BYTES_OUT, core->gone += (uint64_t)count) < 0 ? -1 : count;
    }
    if (code == EAGAIN || code == EWOULDBLOCK || code == EINTR) {
        return 0;
    }
    errno = code;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

int
core_keep_back(const Core *core, PyObject *held, PyObject *data, int may)
{
    const Buffer *buffer = core->plain_buffer;
    Py_ssize_t size = PyBytes_GET_SIZE(data), before = core_held(held);

    if (may && held != Py_None && buffer->end > buffer->pos && before + size <= MOST_GATHERED) {
        if (PyByteArray_Resize(held, before + size) < 0) {
            return KEEP_FAILED;
        }
        memcpy(PyByteArray_AS_STRING(held) + before, PyBytes_AS_STRING(data), (size_t)size);
        return KEPT;
    }
    return before ? BEHIND : GOES_OUT;
}

int
core_send_held(Core *core, PyObject *held)
{
    PyObject *kind, *error, *traceback;
    Py_ssize_t sent, left = 0;
    Py_buffer out; /* while there is one the size is what it is */

    if (PyObject_GetBuffer(held, &out, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Py_INCREF(held);
    sent = core_send(core, out.buf, out.len, 0);
    if (sent > 0) {
        left = out.len - sent;
        memmove(out.buf, (char *)out.buf + sent, (size_t)left);
    } else if (sent == 0) {
        left = out.len;
    }
    PyBuffer_Release(&out);
    PyErr_Fetch(&kind, &error, &traceback);
    if (PyByteArray_Resize(held, left) < 0) { /* cannot be: it becomes smaller */
        PyErr_Clear();
    }
    PyErr_Restore(kind, error, traceback);
    Py_DECREF(held);
    return sent < 0 ? -1 : !left;
}

/* Send FIN, discard what has come, and close the descriptor if the peer has ended too; whether it has.
   -1: an error is set. */
static int
hang_up(Core *core, int fd)
{
    const Life *life = core_life(core);
    int ended = life && life->peer_ended;
    PyObject *close_socket, *closed;

    Py_BEGIN_ALLOW_THREADS
    ended = shutdown(fd, SHUT_WR) < 0 || ended; /* reset: nobody is left to end it in an orderly way */
    for (int helping = 0; helping < DISCARDS && !ended; helping++) {
        char discarded[DISCARD];
        ssize_t count = recv(fd, discarded, sizeof discarded, MSG_DONTWAIT);

        if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        }
        ended = count == 0 || (count < 0 && errno != EINTR);
    }
    Py_END_ALLOW_THREADS
    if (!ended) {
        return 0;
    }
    if (!core->sock) {
        core->fd = -1;
        close(fd);
        return 1;
    }
    close_socket = PyObject_GetAttr((PyObject *)core, core->state->names[CLOSE_SOCKET]);
    closed = close_socket ? PyObject_CallOneArg(close_socket, core->sock) : NULL;
    Py_XDECREF(close_socket);
    Py_XDECREF(closed);
    return closed ? 1 : -1;
}

static PyObject *
Core_hang_up(Core *core, PyObject *Py_UNUSED(ignored))
{
    int fd = core_descriptor(core), ended;

    if (!core_is_plain(core) || fd < 0) {
        return slow(core, "_slow_hang_up", NULL);
    }
    ended = hang_up(core, fd);
    return ended < 0 ? NULL : PyBool_FromLong(ended);
}

int
core_end(Core *core, Life *life, int fd)
{
    PyObject *closed = PyObject_GetAttr((PyObject *)core, core->state->names[CLOSED_STATE]);
    uint64_t before;

    if (!closed || ledger_word(core->plain_ledger, ENDED, &before) < 0) {
        Py_XDECREF(closed);
        return -1;
    }
    Py_XSETREF(life->end, closed);
    life->sends = 0;
    life->over = 1;
    /* What has ended it before counts. */
    if (!before && ledger_store(core->plain_ledger, ENDED, ENDED_CLOSED) < 0) {
        return -1;
    }
    return hang_up(core, fd);
}

static PyObject *
Core_send(Core *core, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer view;
    Py_ssize_t count;
    int push;

    if (given != 2) {
        PyErr_Format(PyExc_TypeError, "send() takes 2 arguments (%zd given)", given);
        return NULL;
    }
    push = PyObject_IsTrue(args[1]);
    if (push < 0) {
        return NULL;
    }
    if (!core_is_plain(core)) {
        PyObject *method = PyObject_GetAttrString((PyObject *)core, "_slow_send"), *sent;

        if (!method) {
            return NULL;
        }
        sent = PyObject_Vectorcall(method, args, 2, NULL);
        Py_DECREF(method);
        return sent;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    count = core_send(core, view.buf, view.len, push);
    PyBuffer_Release(&view);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

/* Put a state on the shelf. */
static int
put_state(Core *core, PyObject *state)
{
    PyObject *done;

    if (Py_IS_TYPE(core->shelf, core->state->shelf) && (state == Py_None || PyBytes_Check(state))) {
        return shelf_put(core->shelf, state);
    }
    done = PyObject_CallMethodOneArg(core->shelf, core->state->names[PUT], state);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

int
core_commit(Core *core, PyObject *packed)
{
    Buffer *buffer = core->plain_buffer;

    if (core->shelf && core->shelf != Py_None) {
        PyObject *before = core->committed ? core->committed : Py_None;
        int changed = packed == before ? 0 : PyObject_RichCompareBool(packed, before, Py_NE);

        if (changed < 0) {
            return -1;
        }
        /* Before the status says that it is there. */
        if (changed && put_state(core, packed) < 0) {
            return -1;
        }
    }
    Py_INCREF(packed);
    Py_XSETREF(core->committed, packed);
    core->receives = -1;
    buffer_commit(buffer);
    core->plain_ledger->bound = 0;
    return ledger_commit(core->plain_ledger, buffer->pos < buffer->end, 0);
}

static PyObject *
Core_commit(Core *core, PyObject *packed)
{
    return core_is_plain(core) ? core_done(core_commit(core, packed)) : slow(core, "_slow_commit", packed);
}

static int
Core_traverse(Core *core, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(core));
    Py_VISIT(core->maker);
    Py_VISIT(core->sock);
    Py_VISIT(core->transport);
    Py_VISIT(core->buffer);
    Py_VISIT(core->ledger);
    Py_VISIT(core->life);
    Py_VISIT(core->committed);
    Py_VISIT(core->failure);
    Py_VISIT(core->lease);
    Py_VISIT(core->shelf);
    Py_VISIT(core->source);
    return 0;
}

static int
Core_clear(Core *core)
{
    core->plain_buffer = NULL;
    core->plain_ledger = NULL;
    if (core->maker && core->fd >= 0) {
        close(core->fd); /* as a socket does that nobody has any more */
        core->fd = -1;
    }
    Py_CLEAR(core->maker);
    Py_CLEAR(core->sock);
    Py_CLEAR(core->transport);
    Py_CLEAR(core->buffer);
    Py_CLEAR(core->ledger);
    Py_CLEAR(core->life);
    Py_CLEAR(core->committed);
    Py_CLEAR(core->failure);
    Py_CLEAR(core->lease);
    Py_CLEAR(core->shelf);
    Py_CLEAR(core->source);
    return 0;
}

static void
Core_dealloc(Core *core)
{
    PyTypeObject *type = Py_TYPE(core);

    PyObject_GC_UnTrack(core);
    Core_clear(core);
    type->tp_free(core);
    Py_DECREF(type);
}

/* Return the part, or raise AttributeError before it is set. */
static PyObject *
part(PyObject *part, const char *name)
{
    if (!part) {
        PyErr_SetString(PyExc_AttributeError, name);
        return NULL;
    }
    Py_INCREF(part);
    return part;
}

/* A part that C looks into is set once, so that it stays where it is while that goes on. */
static int
cannot_be_set(PyObject *value, PyObject *before)
{
    if (!value || before) {
        PyErr_SetString(PyExc_AttributeError, "a core keeps its buffer and its ledger");
        return 1;
    }
    return 0;
}

static State *
state_of(Core *core)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(core), &core_module);

    return module ? PyModule_GetState(module) : NULL;
}

/* Return whether an attribute is true; -1: an error is set. */
static int
is_true(PyObject *owner, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(owner, name);
    int truth = value ? PyObject_IsTrue(value) : -1;

    Py_XDECREF(value);
    return truth;
}

/* Have the core go over that transport, which says whether it is the socket itself, and whether EOF
   may stand for another end. */
static int
use_transport(Core *core, State *state, PyObject *transport)
{
    int direct = is_true(transport, state->names[DIRECT]);
    int tells_end = direct < 0 ? -1 : is_true(transport, state->names[TELLS_END]);

    if (tells_end < 0) {
        return -1;
    }
    core->direct = (char)direct;
    core->tells_end = (char)tells_end;
    Py_INCREF(transport);
    Py_XSETREF(core->transport, transport);
    return 0;
}

static PyObject *
Core_sock(Core *core, void *Py_UNUSED(closure))
{
    return Py_XNewRef(socket_of(core));
}

static int
Core_set_sock(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a core has a socket");
        return -1;
    }
    if (core->maker && !socket_of(core)) { /* the descriptor is that one's, not the new one's */
        return -1;
    }
    Py_XSETREF(core->sock, Py_NewRef(value));
    return 0;
}

static PyObject *
Core_source(Core *core, void *Py_UNUSED(closure))
{
    return core->source ? Py_NewRef(core->source) : Py_XNewRef(socket_of(core));
}

static int
Core_set_source(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(core->source, Py_XNewRef(value));
    return 0;
}

static PyObject *
Core_transport(Core *core, void *Py_UNUSED(closure))
{
    if (!core->transport && core->maker && socket_of(core)) {
        core->transport = caster_transport(core->maker, core->sock);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    return part(core->transport, "transport");
}

static int
Core_set_transport(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    State *state = state_of(core);

    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a core has a transport");
        return -1;
    }
    return state ? use_transport(core, state, value) : -1;
}

static PyObject *
Core_buffer(Core *core, void *Py_UNUSED(closure))
{
    return part(core->buffer, "buffer");
}

static int
Core_set_buffer(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    State *state = state_of(core);

    if (!state || cannot_be_set(value, core->buffer)) {
        return -1;
    }
    core->plain_buffer = Py_TYPE(value) == state->buffer ? (Buffer *)value : NULL;
    Py_INCREF(value);
    core->buffer = value;
    return 0;
}

static PyObject *
Core_ledger(Core *core, void *Py_UNUSED(closure))
{
    return part(core->ledger, "ledger");
}

static int
Core_set_ledger(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    State *state = state_of(core);

    if (!state || cannot_be_set(value, core->ledger)) {
        return -1;
    }
    core->plain_ledger = Py_TYPE(value) == state->ledger ? (Ledger *)value : NULL;
    Py_INCREF(value);
    core->ledger = value;
    return 0;
}

/* The record is the ledger's, so that there is one. */
static PyObject *
Core_record(Core *core, void *Py_UNUSED(closure))
{
    if (core->plain_ledger) {
        return ledger_record(core->plain_ledger);
    }
    return core->ledger ? PyObject_GetAttrString(core->ledger, "record") : part(NULL, "record");
}

static int
Core_set_record(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a core has a record");
        return -1;
    }
    if (!core->ledger) {
        PyErr_SetString(PyExc_AttributeError, "the ledger, which has the record, comes first");
        return -1;
    }
    return PyObject_SetAttrString(core->ledger, "record", value);
}

/* As the end of `StreamCore.__init__`: what the worker before has left is put where it belongs. */
static int
take_over(Core *core, State *state)
{
    PyObject *unread;
    char *data;
    Py_ssize_t size;
    int failed;

    if (core->shelf != Py_None && core->committed != Py_None) {
        PyObject *put =
            PyObject_CallMethodOneArg(core->shelf, state->names[PUT], core->committed);

        if (!put) {
            return -1;
        }
        Py_DECREF(put);
    }
    unread = PyObject_GetAttr(core->lease, state->names[UNREAD]);
    if (!unread) {
        return -1;
    }
    failed = PyBytes_AsStringAndSize(unread, &data, &size) < 0 ||
             (size && (buffer_feed(core->plain_buffer, data, (size_t)size) < 0 ||
                       ledger_reading(core->plain_ledger) < 0));
    Py_DECREF(unread);
    return failed ? -1 : 0;
}

static PyObject *
new_buffer(State *state, PyObject *lease, int resumable)
{
    PyObject *limit = PyObject_GetAttr(lease, state->names[REPLAY_LIMIT]);
    Py_ssize_t most = limit ? PyNumber_AsSsize_t(limit, PyExc_OverflowError) : -1;

    Py_XDECREF(limit);
    return most == -1 && PyErr_Occurred() ? NULL : (PyObject *)buffer_of(state->buffer, resumable, most);
}

/* The twin of `StreamCore.__init__`, where the transport is the socket itself. */
static int
Core_init(Core *core, PyObject *args, PyObject *keywords)
{
    PyObject *transport, *buffer, *lease, *hooks, *record, *life;
    State *state = state_of(core);
    int resumable;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "a core takes no keyword arguments");
        return -1;
    }
    if (!state || !PyArg_ParseTuple(args, "OOOO:core", &transport, &buffer, &lease, &hooks)) {
        return -1;
    }
    if (core->buffer || core->ledger) {
        PyErr_SetString(PyExc_TypeError, "a core is made once");
        return -1;
    }
    core->state = state;
    if (use_transport(core, state, transport) < 0) {
        return -1;
    }
    if (!core->direct || (buffer != Py_None && Py_TYPE(buffer) != state->buffer)) {
        PyObject *slow_init = PyObject_GetAttr((PyObject *)core, state->names[SLOW_INIT]);
        PyObject *done = slow_init ? PyObject_Call(slow_init, args, NULL) : NULL;

        Py_XDECREF(slow_init);
        Py_XDECREF(done);
        return done ? 0 : -1;
    }
    core->lease = Py_NewRef(lease);
    resumable = is_true(lease, state->names[RESUMABLE]);
    if (resumable < 0) {
        return -1;
    }
    core->buffer = buffer == Py_None ? new_buffer(state, lease, resumable) : Py_NewRef(buffer);
    core->plain_buffer = (Buffer *)core->buffer;
    if (!core->buffer) {
        return -1;
    }
    record = PyObject_GetAttr(hooks, state->names[RECORD]);
    if (!record) {
        return -1;
    }
    core->plain_ledger = ledger_of(state->ledger, record);
    core->ledger = (PyObject *)core->plain_ledger;
    Py_DECREF(record);
    if (!core->ledger || ledger_word(core->plain_ledger, BYTES_IN, &core->came) < 0 ||
        ledger_word(core->plain_ledger, BYTES_OUT, &core->gone) < 0 ||
        ledger_active(core->plain_ledger) < 0) {
        return -1;
    }
    core->receives = resumable ? 0 : -1;
    core->retains = (char)resumable;
    life = PyObject_GetAttr((PyObject *)core, state->names[MAKE_LIFE]);
    core->life = life ? PyObject_CallNoArgs(life) : NULL;
    Py_XDECREF(life);
    core->sock = core->life ? PyObject_GetAttr(transport, state->names[SOCK]) : NULL;
    core->committed = core->sock ? PyObject_GetAttr(lease, state->names[STATE]) : NULL;
    core->shelf = core->committed ? PyObject_GetAttr(hooks, state->names[SHELF]) : NULL;
    return core->shelf ? take_over(core, state) : -1;
}

PyObject *
core_like(const Core *pattern, PyObject *maker, int fd, PyObject *lease, Ledger *ledger)
{
    PyTypeObject *type = Py_TYPE(pattern);
    const Buffer *buffer = pattern->plain_buffer;
    State *state = pattern->state;
    Core *core = (Core *)type->tp_alloc(type, 0);

    if (!core) {
        close(fd);
        return NULL;
    }
    core->maker = Py_NewRef(maker);
    core->fd = fd;
    core->state = state;
    core->direct = pattern->direct;
    core->tells_end = pattern->tells_end;
    core->retains = pattern->retains;
    core->receives = pattern->receives;
    core->lease = Py_NewRef(lease);
    core->committed = Py_NewRef(Py_None);
    core->shelf = Py_NewRef(Py_None);
    core->plain_buffer = buffer_of(state->buffer, buffer->retain, (Py_ssize_t)buffer->limit);
    core->buffer = (PyObject *)core->plain_buffer;
    core->plain_ledger = ledger;
    core->ledger = Py_NewRef(ledger);
    core->life = (PyObject *)new_life(Py_TYPE(pattern->life));
    if (!core->buffer || !core->life || ledger_active(core->plain_ledger) < 0) {
        Py_DECREF(core);
        return NULL;
    }
    return (PyObject *)core;
}

void
core_go_on(Core *core, uint64_t came, uint64_t gone, PyObject *committed, PyObject *shelf)
{
    core->came = came;
    core->gone = gone;
    Py_SETREF(core->committed, Py_NewRef(committed));
    Py_SETREF(core->shelf, Py_NewRef(shelf));
}

static PyMethodDef methods[] = {
    {"receive", (PyCFunction)Core_receive, METH_O,
     "Return up to so many bytes, b\"\" at EOF; None: nothing is there, or `failure` is set."},
    {"fill", (PyCFunction)Core_fill, METH_O,
     "Receive up to so many bytes into the buffer: NOTHING, ARRIVED, EOF or FAILED."},
    {"send", (PyCFunction)(void (*)(void))Core_send, METH_FASTCALL,
     "Send what the kernel takes now; return how many bytes.  Raises OSError."},
    {"hang_up", (PyCFunction)Core_hang_up, METH_NOARGS,
     "Send FIN, discard what has come, and close if the peer has ended; return whether it has."},
    {"commit", (PyCFunction)Core_commit, METH_O,
     "Note that all received so far is dealt with, and the state to go on from."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"life", T_OBJECT_EX, offsetof(Core, life), 0, "Where it is in its life."},
    {"committed", T_OBJECT, offsetof(Core, committed), 0, "The committed state, as msgpack."},
    {"failure", T_OBJECT, offsetof(Core, failure), 0, "What no receive has raised yet."},
    {"_lease", T_OBJECT_EX, offsetof(Core, lease), 0, NULL},
    {"_shelf", T_OBJECT, offsetof(Core, shelf), 0, NULL},
    {"client_hello", T_PYSSIZET, offsetof(Core, client_hello), 0,
     "How long the ClientHello is that came first; 0: none did."},
    {"_came", T_ULONGLONG, offsetof(Core, came), 0, NULL},
    {"_gone", T_ULONGLONG, offsetof(Core, gone), 0, NULL},
    {"_receives", T_PYSSIZET, offsetof(Core, receives), 0, NULL},
    {"_retains", T_BOOL, offsetof(Core, retains), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"sock", (getter)Core_sock, (setter)Core_set_sock, "The socket.", NULL},
    {"_source", (getter)Core_source, (setter)Core_set_source, NULL, NULL},
    {"transport", (getter)Core_transport, (setter)Core_set_transport,
     "Where bytes come from and go to.", NULL},
    {"buffer", (getter)Core_buffer, (setter)Core_set_buffer, "The received bytes.", NULL},
    {"ledger", (getter)Core_ledger, (setter)Core_set_ledger, "The account.", NULL},
    {"record", (getter)Core_record, (setter)Core_set_record, "The ledger's record.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_init, Core_init},
    {Py_tp_dealloc, Core_dealloc},
    {Py_tp_traverse, Core_traverse},
    {Py_tp_clear, Core_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {Py_tp_doc, "The fast half of a core; see `_stream._core`."},
    {0, NULL},
};

PyType_Spec stream_core_spec = {
    .name = "socketkeep._native._core.FastCore",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
