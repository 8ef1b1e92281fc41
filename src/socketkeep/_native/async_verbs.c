/* The verbs of an async connection, as awaitables: `recv`, `send`, and all that receive messages.

   They own, until they are over, the connection and what was asked for.  Each serves the normal course
   of a verb, without a frame of Python's; whatever else it meets it leaves to the coroutine that is the
   verb in Python, which begins anew, and passes on what that awaits.  So there is nothing here that
   Python does not decide: an order, a deadline, the end of a connection, an error.

   Bytes leave the kernel only in a step of the task that asked for them, which either returns them or
   leaves them in the connection's buffer: who is cancelled while it waits loses none. */

#define _GNU_SOURCE

#include "core.h"

#include <stddef.h>
#include <structmember.h>
#include <time.h>

/* What a wait has ended with, of `_stream/_aio.py`. */
enum { IS_READY = 0 };

typedef enum { BEGUN_NOT, RUNNING, WAITS, DELEGATED, OVER } Stage;

/* A call of it. */
typedef struct {
    PyObject_HEAD
    Verb *verb;
    PyObject *conn;
    PyObject *asked;     /* of `send`: the data; otherwise what takes a message from the buffer */
    PyObject *operation; /* of a message: its name, */
    PyObject *most;      /* the bound as it was given, */
    PyObject *exactly;   /* how many bytes are wanted, None: any number, */
    PyObject *at_eof;    /* and what is called at the peer's end */
    PyObject *inner;     /* the coroutine that goes on with it */
    Waiter *waiter;      /* while it receives, its connection's, which it has claimed */
    Core *core;
    Py_ssize_t bound;
    Py_ssize_t wanted; /* `exactly`, -1: any number of bytes */
    Stage stage;
    char straight; /* whatever comes is what is wanted */
} Awaitable;

/* A call. */

static Awaitable *
new_call(Verb *verb, Kind kind, PyObject *conn)
{
    State *state = verb->state;
    Awaitable *call;

    if (state->spares) {
        call = (Awaitable *)state->spare[--state->spares];
        PyObject_Init((PyObject *)call, state->awaitable);
    } else {
        call = PyObject_GC_New(Awaitable, state->awaitable);
        if (!call) {
            return NULL;
        }
    }
    call->verb = (Verb *)Py_NewRef(verb);
    call->conn = Py_NewRef(conn);
    call->asked = call->operation = call->most = call->exactly = call->at_eof = call->inner = NULL;
    call->waiter = NULL;
    call->core = NULL;
    call->bound = 0;
    call->wanted = -1;
    call->stage = BEGUN_NOT;
    call->straight = kind == RECV;
    PyObject_GC_Track(call);
    return call;
}

/* Let others receive from the connection. */
static void
unclaim(Awaitable *call)
{
    if (call->waiter) {
        call->waiter->claimed = 0;
    }
    Py_CLEAR(call->waiter);
    Py_CLEAR(call->core);
}

/* Leave a wait that has not ended: the task was thrown something. */
static void
give_up(Awaitable *call)
{
    PyObject *kind, *value, *traceback;

    call->stage = OVER;
    if (!call->waiter || !call->core) {
        return;
    }
    call->waiter->pending = 0;
    PyErr_Fetch(&kind, &value, &traceback);
    if (call->core->plain_ledger && ledger_store(call->core->plain_ledger, WAITING, 0) < 0) {
        PyErr_WriteUnraisable(call->conn);
    }
    PyErr_Restore(kind, value, traceback);
    unclaim(call);
}

static int
Awaitable_clear(Awaitable *call)
{
    if (call->stage == WAITS) {
        give_up(call);
    }
    unclaim(call);
    Py_CLEAR(call->conn);
    Py_CLEAR(call->asked);
    if (call->operation) { /* of a message */
        Py_CLEAR(call->operation);
        Py_CLEAR(call->most);
        Py_CLEAR(call->exactly);
        Py_CLEAR(call->at_eof);
    }
    Py_CLEAR(call->inner);
    return 0;
}

static PySendResult
pass_on(Awaitable *call, PyObject *value, PyObject **result)
{
    PySendResult came = PyIter_Send(call->inner, value, result);

    if (came == PYGEN_NEXT) {
        call->stage = DELEGATED;
        return came;
    }
    call->stage = OVER;
    Awaitable_clear(call);
    return came;
}

static PySendResult
failed(Awaitable *call, PyObject **result)
{
    *result = NULL;
    call->stage = OVER;
    Awaitable_clear(call);
    return PYGEN_ERROR;
}

/* Go on as the coroutine that was made; NULL: an error is set. */
static PySendResult
go_on_as(Awaitable *call, PyObject *made, PyObject **result)
{
    unclaim(call);
    if (!made) {
        return failed(call, result);
    }
    Py_XSETREF(call->inner, made);
    return pass_on(call, Py_None, result);
}

/* Have the verb in Python do it, from its beginning. */
static PySendResult
delegate(Awaitable *call, PyObject **result)
{
    PyObject *made = NULL;

    unclaim(call);
    switch (call->verb->kind) {
    case SEND:
        made = PyObject_CallFunctionObjArgs(call->verb->function, call->conn, call->asked, NULL);
        break;
    case MESSAGE:
        made = PyObject_CallFunction(call->verb->function, "OOOOOOOi", call->conn, call->operation,
                                     call->asked, call->most, call->exactly, Py_None,
                                     call->at_eof, (int)call->straight);
        break;
    case RECV:
        made = PyObject_CallFunction(call->verb->function, "On", call->conn, call->bound);
        break;
    case OTHER: /* is no awaitable */
        break;
    }
    return go_on_as(call, made, result);
}

static PySendResult
finish(Awaitable *call, PyObject *data, PyObject **result)
{
    *result = data;
    call->stage = OVER;
    Awaitable_clear(call);
    return PYGEN_RETURN;
}

/* Receiving. */

static size_t
unread(const Awaitable *call)
{
    return call->core->plain_buffer->end - call->core->plain_buffer->pos;
}

/* Take what is wanted from the buffer, as `message_take`. */
static int
take(Awaitable *call, PyObject **data)
{
    *data = NULL;
    if (call->straight) {
        size_t size = unread(call);

        *data = buffer_take(call->core->plain_buffer,
                            size > (size_t)call->bound ? (size_t)call->bound : size);
        return *data ? TAKEN : RAISED;
    }
    return message_take(call->verb->state, call->core->plain_buffer, call->asked, call->most,
                        call->bound, data);
}

/* Receive once: as `take`, or EOF_CAME or FAILED. */
static int
receive(Awaitable *call, PyObject **data)
{
    int came;

    *data = NULL;
    if (call->straight) {
        return core_receive(call->core, (size_t)call->bound, data);
    }
    came = core_fill(call->core, call->wanted > CHUNK ? LARGE_CHUNK : CHUNK);
    return came == ARRIVED ? take(call, data) : came;
}

/* What the peer's EOF means is for the server to say, and for who asked. */
static PySendResult
at_end(Awaitable *call, PyObject **result)
{
    State *state = call->verb->state;
    PyObject *operation = call->operation, *refusal, *data;
    const Life *life = core_life(call->core);

    if (call->straight && life && !life->over) {
        data = PyBytes_FromStringAndSize(NULL, 0); /* it is told for the first time */
        return data ? finish(call, data, result) : failed(call, result);
    }
    operation = operation ? Py_NewRef(operation) : PyUnicode_FromString("recv");
    refusal = operation ? PyObject_CallMethodOneArg(call->conn, state->names[AT_END], operation) : NULL;
    Py_XDECREF(operation);
    if (!refusal) {
        return failed(call, result);
    }
    if (refusal != Py_None) {
        PyObject *made = PyObject_CallMethodOneArg(call->conn, state->names[RAISE], refusal);

        Py_DECREF(refusal);
        return go_on_as(call, made, result);
    }
    Py_DECREF(refusal);
    data = call->straight ? PyBytes_FromStringAndSize(NULL, 0) : PyObject_CallNoArgs(call->at_eof);
    return data ? finish(call, data, result) : failed(call, result);
}

static const Life *
life_of(const Awaitable *call)
{
    return core_life(call->core);
}

/* Wait until bytes have come, if there is nothing else that ends a wait. */
static PySendResult
wait_for_more(Awaitable *call, PyObject **result)
{
    Waiter *waiter = call->waiter;
    const Life *life = life_of(call);

    if (!waiter->watching || waiter->ordered || !life || life->peer_ended || life->over ||
        core_failed(call->core) || !core_is_plain(call->core)) {
        return delegate(call, result);
    }
    if (waiter->tended) {
        waiter->since = core_now();
    }
    waiter->unwaited = 0;
    if (ledger_store(call->core->plain_ledger, WAITING, 1) < 0) {
        return failed(call, result);
    }
    waiter->pending = waiter->blocking = 1;
    call->stage = WAITS;
    *result = Py_NewRef(waiter);
    return PYGEN_NEXT;
}

/* Go on with what `receive` or `take` has ended with. */
static PySendResult
deal_with(Awaitable *call, int came, PyObject *data, PyObject **result)
{
    switch (came) {
    case TAKEN:
        return finish(call, data, result);
    case EOF_CAME:
        return at_end(call, result);
    case NOTHING:
        return wait_for_more(call, result);
    case RAISED:
        return failed(call, result);
    default:
        return delegate(call, result);
    }
}

/* As `AsyncConnection._tries`: whether to receive before a wait. */
static int
tries(Awaitable *call)
{
    const Core *core = call->core;

    return call->waiter->unwaited < HELPINGS &&
           (core->plain_ledger->read || !core->shelf || core->shelf == Py_None);
}

/* Be told when bytes have come; -1: an error is set. */
static int
watch(Awaitable *call)
{
    State *state = call->verb->state;
    Reactor *reactor = reactor_of(state, call->conn);
    int fd = reactor ? core_descriptor(call->core) : -1, failed;
    PyObject *done;

    if (fd >= 0) {
        failed = reactor_watch(reactor, fd, call->waiter);
    } else {
        PyErr_Clear();
        done = PyObject_CallMethodNoArgs(call->conn, state->names[WATCH]);
        failed = done ? 0 : -1;
        Py_XDECREF(done);
    }
    Py_XDECREF(reactor);
    return failed;
}

/* The core, if the connection is one that is served here; borrowed. */
static Core *
core_of(const Awaitable *call)
{
    const Verb *verb = call->verb;
    PyObject *core;

    if (!verb->owner || !PyObject_TypeCheck(call->conn, verb->owner)) {
        return NULL;
    }
    core = verb_slot(verb, call->conn, ITS_CORE);
    return core && is_core(verb->state, core) && core_is_plain((Core *)core) ? (Core *)core : NULL;
}

/* Claim the connection, if this is the normal course. */
static int
claim(Awaitable *call)
{
    Core *core = core_of(call);
    PyObject *waiter = core ? verb_slot(call->verb, call->conn, ITS_WAITER) : NULL;
    const Life *life;

    if (!waiter || Py_TYPE(waiter) != call->verb->state->waiter || ((Waiter *)waiter)->claimed ||
        ((Waiter *)waiter)->ordered) {
        return 0;
    }
    call->waiter = (Waiter *)Py_NewRef(waiter);
    call->core = (Core *)Py_NewRef(core);
    call->waiter->claimed = 1;
    life = life_of(call);
    return life && !life->over;
}

/* What to send has ended with, beside NOTHING and RAISED: it is for Python to go on. */
enum { LEFT = REFUSED };

/* What an awaitable of Python's is, that raises the library's error for the system call's that is set. */
static PyObject *
send_failed(Awaitable *call)
{
    PyObject *kind, *error, *traceback, *made;

    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    made = PyObject_CallMethodOneArg(call->conn, call->verb->state->names[SEND_FAILED], error);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return made;
}

/* Whether nothing waits to be sent before what a call sends. */
static int
sends_next(const Awaitable *call)
{
    PyObject *queue = verb_slot(call->verb, call->conn, ITS_OUT);

    return core_sends(call->core) && verb_slot(call->verb, call->conn, ITS_UNSENT) == Py_None &&
           (queue == Py_None || (queue && PyList_CheckExact(queue) && !PyList_GET_SIZE(queue)));
}

/* Send what is gathered, which goes out before a wait.  NOTHING: nothing is left of it; LEFT: Python is to
   go on with it, RAISED: an error of the system's is set, or another. */
static int
send_held(Awaitable *call)
{
    PyObject *held = verb_slot(call->verb, call->conn, ITS_GATHERED);
    int sent;

    if (!held || !core_held(held)) {
        return NOTHING;
    }
    sent = sends_next(call) ? core_send_held(call->core, held) : 0;
    return sent < 0 ? RAISED : sent ? NOTHING : LEFT;
}

static PySendResult
begin_receive(Awaitable *call, PyObject **result)
{
    PyObject *data = NULL;
    int came;

    if (!claim(call)) {
        return delegate(call, result);
    }
    if (unread(call) || call->wanted == 0) {
        came = take(call, &data);
        if (came != NOTHING) {
            return deal_with(call, came, data, result);
        }
    }
    came = send_held(call);
    if (came == LEFT) {
        return delegate(call, result);
    }
    if (came == RAISED) {
        return PyErr_ExceptionMatches(PyExc_OSError) ? go_on_as(call, send_failed(call), result)
                                                     : failed(call, result);
    }
    if (!call->waiter->watching) {
        const Life *life = life_of(call);

        if (core_failed(call->core) || !life || life->peer_ended) {
            return delegate(call, result);
        }
        if (tries(call)) {
            came = receive(call, &data);
            if (came == TAKEN && PyBytes_Check(data)) {
                size_t size = (size_t)PyBytes_GET_SIZE(data) + unread(call);

                call->waiter->unwaited += size >= LARGE_HELPING ? HELPINGS : 1;
            }
            if (came != NOTHING) {
                return deal_with(call, came, data, result);
            }
        }
        if (watch(call) < 0) {
            return failed(call, result);
        }
    }
    return wait_for_more(call, result);
}

static PySendResult
go_on_receiving(Awaitable *call, PyObject **result)
{
    PyObject *data = NULL;
    const Life *life = life_of(call);
    int came;

    call->waiter->pending = 0;
    if (ledger_store(call->core->plain_ledger, WAITING, 0) < 0) {
        return failed(call, result);
    }
    if (call->waiter->came != IS_READY || !life || life->over || !core_is_plain(call->core)) {
        return delegate(call, result);
    }
    came = receive(call, &data);
    return deal_with(call, came, data, result);
}

/* Sending. */

/* Whether a send goes out as it is, and at once; -1: an error is set. */
static int
sends_at_once(Awaitable *call)
{
    PyObject *handled = NULL;
    Core *core;
    int own;

    if (!PyBytes_CheckExact(call->asked) || !PyBytes_GET_SIZE(call->asked)) {
        return 0;
    }
    core = core_of(call);
    if (!core) {
        return 0;
    }
    call->core = (Core *)Py_NewRef(core);
    if (!sends_next(call)) {
        return 0;
    }
    if (!core->retains) {
        return 1;
    }
    /* A send from another handler is a push: Python accounts for it. */
    if (PyContextVar_Get(call->verb->handling, NULL, &handled) < 0) {
        return -1;
    }
    own = handled == call->conn;
    Py_XDECREF(handled);
    return own;
}

/* Whether the bytes of a send are kept back, as `core_keep_back` says. */
static int
keep_back(const Awaitable *call)
{
    PyObject *held = verb_slot(call->verb, call->conn, ITS_GATHERED), *waiter;
    int may;

    if (!held || held == Py_None) {
        return GOES_OUT;
    }
    waiter = verb_slot(call->verb, call->conn, ITS_WAITER);
    may = waiter && Py_TYPE(waiter) == call->verb->state->waiter && !((Waiter *)waiter)->claimed;
    return core_keep_back(call->core, held, call->asked, may);
}

static PySendResult
begin_send(Awaitable *call, PyObject **result)
{
    int plain = sends_at_once(call);
    Py_ssize_t size, sent;
    PyObject *made;

    if (plain <= 0) {
        return plain < 0 ? failed(call, result) : delegate(call, result);
    }
    switch (keep_back(call)) {
    case GOES_OUT:
        break;
    case KEPT:
        return finish(call, Py_NewRef(Py_None), result);
    case BEHIND:
        return delegate(call, result);
    default:
        return failed(call, result);
    }
    size = PyBytes_GET_SIZE(call->asked);
    sent = core_send(call->core, PyBytes_AS_STRING(call->asked), size, 0);
    if (sent == size) {
        return finish(call, Py_NewRef(Py_None), result);
    }
    if (sent < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return failed(call, result);
        }
        made = send_failed(call);
    } else {
        made = PyObject_CallMethod(call->conn, "_send_rest", "On", call->asked, sent);
    }
    return go_on_as(call, made, result);
}

/* The protocol of coroutines. */

static PySendResult
Awaitable_am_send(Awaitable *call, PyObject *value, PyObject **result)
{
    PySendResult came;

    *result = NULL;
    Py_INCREF(call); /* what it calls may let go of it */
    switch (call->stage) {
    case BEGUN_NOT:
        call->stage = RUNNING;
        came = call->verb->kind == SEND ? begin_send(call, result) : begin_receive(call, result);
        break;
    case WAITS:
        call->stage = RUNNING;
        came = go_on_receiving(call, result);
        break;
    case DELEGATED:
        call->stage = RUNNING;
        came = pass_on(call, value, result);
        break;
    default:
        PyErr_SetString(call->stage == OVER ? PyExc_RuntimeError : PyExc_ValueError,
                        call->stage == OVER ? "cannot reuse already awaited coroutine"
                                            : "coroutine already executing");
        came = PYGEN_ERROR;
    }
    Py_DECREF(call);
    return came;
}

static PyObject *
Awaitable_send(Awaitable *call, PyObject *value)
{
    PyObject *result, *stop;

    switch (Awaitable_am_send(call, value, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        Py_DECREF(result);
        if (stop) {
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        }
        return NULL;
    default:
        return NULL;
    }
}

static PyObject *
Awaitable_iternext(Awaitable *call)
{
    return Awaitable_send(call, Py_None);
}

int
set_thrown(PyObject *const *args, Py_ssize_t given)
{
    PyObject *kind = args[0], *value = given > 1 && args[1] != Py_None ? args[1] : NULL;

    if (PyExceptionInstance_Check(kind)) {
        PyErr_SetObject((PyObject *)Py_TYPE(kind), kind);
    } else if (PyExceptionClass_Check(kind)) {
        PyErr_SetObject(kind, value);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions are what can be thrown");
        return 0;
    }
    return 1;
}

static PyObject *
Awaitable_throw(Awaitable *call, PyObject *const *args, Py_ssize_t given)
{
    PyObject *method, *result = NULL;

    if (given < 1 || given > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes 1 to 3 arguments");
        return NULL;
    }
    if (call->stage == RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return NULL;
    }
    if (call->stage == DELEGATED) {
        Py_INCREF(call);
        call->stage = RUNNING;
        method = PyObject_GetAttrString(call->inner, "throw");
        if (method) {
            result = PyObject_Vectorcall(method, args, (size_t)given, NULL);
            Py_DECREF(method);
        }
        if (result) {
            call->stage = DELEGATED;
        } else {
            call->stage = OVER;
            Awaitable_clear(call);
        }
        Py_DECREF(call);
        return result;
    }
    if (call->stage == OVER) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return NULL;
    }
    if (!set_thrown(args, given)) {
        return NULL;
    }
    Py_INCREF(call);
    give_up(call);
    Awaitable_clear(call);
    Py_DECREF(call);
    return NULL;
}

static PyObject *
Awaitable_close(Awaitable *call, PyObject *Py_UNUSED(ignored))
{
    PyObject *closed;

    if (call->stage == RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return NULL;
    }
    Py_INCREF(call);
    if (call->stage == DELEGATED) {
        call->stage = RUNNING;
        closed = PyObject_CallMethod(call->inner, "close", NULL);
    } else {
        closed = Py_NewRef(Py_None);
        give_up(call);
    }
    call->stage = OVER;
    Awaitable_clear(call);
    Py_DECREF(call);
    return closed;
}

static int
Awaitable_traverse(Awaitable *call, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(call));
    Py_VISIT(call->verb);
    Py_VISIT(call->conn);
    Py_VISIT(call->asked);
    Py_VISIT(call->operation);
    Py_VISIT(call->most);
    Py_VISIT(call->exactly);
    Py_VISIT(call->at_eof);
    Py_VISIT(call->inner);
    Py_VISIT(call->waiter);
    Py_VISIT(call->core);
    return 0;
}

static int
Awaitable_tp_clear(Awaitable *call)
{
    Awaitable_clear(call);
    call->stage = OVER;
    return 0;
}

static PyObject *
name_of(Awaitable *call)
{
    if (call->operation) {
        return PyUnicode_FromFormat("AsyncConnection.%S", call->operation);
    }
    return PyObject_GetAttrString(call->verb->function, "__qualname__");
}

/* As a coroutine that nobody has awaited says it. */
static void
warn(Awaitable *call)
{
    PyObject *kind, *value, *traceback, *name;

    PyErr_Fetch(&kind, &value, &traceback);
    name = name_of(call);
    if (!name || PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%U' was never awaited",
                                  name) < 0) {
        PyErr_WriteUnraisable(call->verb->function);
    }
    Py_XDECREF(name);
    PyErr_Restore(kind, value, traceback);
}

static void
Awaitable_dealloc(Awaitable *call)
{
    PyTypeObject *type = Py_TYPE(call);
    State *state = call->verb->state;
    Verb *verb = call->verb;

    PyObject_GC_UnTrack(call);
    if (call->stage == BEGUN_NOT) {
        warn(call);
    }
    if (call->conn) { /* else it has been cleared */
        Awaitable_clear(call);
    }
    if (state->spares < SPARE && state->awaitable) {
        state->spare[state->spares++] = (PyObject *)call;
    } else {
        PyObject_GC_Del(call);
    }
    Py_DECREF(verb);
    Py_DECREF(type);
}

void
verbs_drop_spare(State *state)
{
    while (state->spares) {
        PyObject_GC_Del(state->spare[--state->spares]);
    }
}

static PyObject *
Awaitable_repr(Awaitable *call)
{
    PyObject *name = name_of(call), *text;

    text = name ? PyUnicode_FromFormat("<coroutine %U at %p>", name, (void *)call) : NULL;
    Py_XDECREF(name);
    return text;
}

static PyObject *
Awaitable_name(Awaitable *call, void *Py_UNUSED(closure))
{
    return call->operation ? Py_NewRef(call->operation) : PyObject_GetAttrString(call->verb->function, "__name__");
}

static PyObject *
Awaitable_qualname(Awaitable *call, void *Py_UNUSED(closure))
{
    return name_of(call);
}

static PyObject *
Awaitable_running(Awaitable *call, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(call->stage == RUNNING);
}

static PyObject *
Awaitable_suspended(Awaitable *call, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(call->stage == WAITS || call->stage == DELEGATED);
}

static PyObject *
Awaitable_nothing(Awaitable *Py_UNUSED(call), void *Py_UNUSED(closure))
{
    Py_RETURN_NONE;
}

static PyMethodDef awaitable_methods[] = {
    {"send", (PyCFunction)Awaitable_send, METH_O, "Go on, as a coroutine."},
    {"throw", (PyCFunction)(void (*)(void))Awaitable_throw, METH_FASTCALL, "Raise, where it waits."},
    {"close", (PyCFunction)Awaitable_close, METH_NOARGS, "Leave it, where it waits."},
    {NULL, NULL, 0, NULL},
};

/* What asyncio, anyio and `inspect` ask of a coroutine. */
static PyGetSetDef awaitable_properties[] = {
    {"__name__", (getter)Awaitable_name, NULL, NULL, NULL},
    {"__qualname__", (getter)Awaitable_qualname, NULL, NULL, NULL},
    {"cr_running", (getter)Awaitable_running, NULL, NULL, NULL},
    {"cr_suspended", (getter)Awaitable_suspended, NULL, NULL, NULL},
    {"cr_frame", (getter)Awaitable_nothing, NULL, NULL, NULL},
    {"cr_await", (getter)Awaitable_nothing, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot awaitable_slots[] = {
    {Py_tp_dealloc, Awaitable_dealloc},
    {Py_tp_traverse, Awaitable_traverse},
    {Py_tp_clear, Awaitable_tp_clear},
    {Py_tp_repr, Awaitable_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, Awaitable_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, Awaitable_am_send},
    {Py_tp_methods, awaitable_methods},
    {Py_tp_getset, awaitable_properties},
    {Py_tp_doc, "A call of a verb of an async connection."},
    {0, NULL},
};

PyType_Spec awaitable_spec = {
    .name = "socketkeep._native._core.Call",
    .basicsize = sizeof(Awaitable),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = awaitable_slots,
};

/* The verbs. */

PyObject *
async_recv(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t most = recv_most(args, flagged, names);
    Awaitable *call;

    if (!most) {
        return verb_in_python(verb, args, flagged, names);
    }
    call = new_call(verb, RECV, args[0]);
    if (call) {
        call->bound = most;
    }
    return (PyObject *)call;
}

PyObject *
async_send(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Awaitable *call;

    if (names || PyVectorcall_NARGS(flagged) != 2) {
        return verb_in_python(verb, args, flagged, names);
    }
    call = new_call(verb, SEND, args[0]);
    if (call) {
        call->asked = Py_NewRef(args[1]);
    }
    return (PyObject *)call;
}

/* (conn, operation, take, bound, wanted, timeout, at_eof): `recv` as a message of any size has its own
   verb above, so that one that is `straight` is left to Python. */
PyObject *
async_message(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t bound, wanted = -1;
    Awaitable *call;

    if (names || PyVectorcall_NARGS(flagged) != 7 || args[5] != Py_None) {
        return verb_in_python(verb, args, flagged, names);
    }
    bound = PyNumber_AsSsize_t(args[3], NULL);
    if (args[4] != Py_None && !PyErr_Occurred()) {
        wanted = PyNumber_AsSsize_t(args[4], NULL);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    call = new_call(verb, MESSAGE, args[0]);
    if (call) {
        call->operation = Py_NewRef(args[1]);
        call->asked = Py_NewRef(args[2]);
        call->most = Py_NewRef(args[3]);
        call->exactly = Py_NewRef(args[4]);
        call->at_eof = Py_NewRef(args[6]);
        call->bound = bound;
        call->wanted = wanted;
    }
    return (PyObject *)call;
}

/* The end of a connection, where nothing is waited for. */

/* Whether an attribute is None; -1: an error is set. */
static int
is_none(const Verb *verb, PyObject *conn, int slot)
{
    PyObject *value = verb_attribute(verb, conn, slot);
    int none = value == Py_None;

    Py_XDECREF(value);
    return value ? none : -1;
}

/* Let go of the loop: of the reader, and of the timers if there are any; -1: an error is set. */
static int
let_go_of_loop(const Verb *verb, PyObject *conn, Waiter *waiter, int fd)
{
    const State *state = verb->state;
    Reactor *reactor;
    PyObject *done;

    if (waiter->watching) {
        reactor = reactor_of(state, conn);
        if (!reactor) {
            return -1;
        }
        reactor_unwatch(reactor, fd, waiter);
        Py_DECREF(reactor);
    }
    if (is_none(verb, conn, ITS_CHECK_TIMER) == 1 && is_none(verb, conn, ITS_DEADLINE_TIMER) == 1) {
        Py_CLEAR(waiter->resume);
        Py_CLEAR(waiter->context);
        return 0;
    }
    done = PyObject_CallMethodNoArgs(conn, state->names[CANCEL_TIMERS]);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* The life of a connection that ends as most do: the peer has ended, nobody waits, nothing is to be sent.
   NULL: it is none. */
static Life *
ends_at_once(const Verb *verb, PyObject *conn, PyObject *core, PyObject *waiter)
{
    State *state = verb->state;
    Reactor *reactor;
    Life *life;

    if (!core || !waiter || !is_core(state, core) || Py_TYPE(waiter) != state->waiter ||
        !core_is_plain((Core *)core) || ((Waiter *)waiter)->pending) {
        return NULL;
    }
    life = core_life((Core *)core);
    if (!life || life->over || !life->peer_ended || is_none(verb, conn, ITS_OUT) != 1 ||
        is_none(verb, conn, ITS_GATHERED) != 1) {
        return NULL;
    }
    reactor = reactor_of(state, conn);
    Py_XDECREF(reactor);
    return reactor ? life : NULL;
}

PyObject *
async_end(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    PyObject *conn = args[0], *core = NULL, *waiter = NULL, *done = NULL;
    Life *life = NULL;
    int fd = -1;

    if (!names && PyVectorcall_NARGS(flagged) == 1) {
        core = verb_attribute(verb, conn, ITS_CORE);
        waiter = core ? verb_attribute(verb, conn, ITS_WAITER) : NULL;
        life = ends_at_once(verb, conn, core, waiter);
        fd = life ? core_descriptor((Core *)core) : -1;
        PyErr_Clear();
    }
    if (fd < 0) {
        done = verb_in_python(verb, args, flagged, names);
    } else if (let_go_of_loop(verb, conn, (Waiter *)waiter, fd) == 0 &&
               core_end((Core *)core, life, fd) >= 0) {
        done = Py_NewRef(Py_True);
    }
    Py_XDECREF(core);
    Py_XDECREF(waiter);
    return done;
}
