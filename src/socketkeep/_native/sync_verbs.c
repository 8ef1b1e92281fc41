/* The verbs of a sync connection: `recv`, `send`, and all that receive messages.

   A call owns, for its length, the claim of its direction.  It serves the normal course of a verb without
   a frame of Python's: it reads the word that tells of the server's orders, tries to receive, and waits
   only where nothing has come, for the descriptor and for the server's word.  What else it meets, an
   order, a limit that is over, an error, it leaves to the function that is the verb in Python, with the
   span of time that has begun.

   While it waits, and while it sends what is long, other threads run.  They cannot close the descriptor:
   for that they need the claim. */

#define _GNU_SOURCE

#include "core.h"

#include <limits.h>

/* `_patience` of `_stream/_connection.py`: how a receive may wait with less care than Python does. */
enum { CAREFULLY, UNOFFERED, FOR_A_MOMENT, TO_THE_END };

/* So many attempts in a row that found nothing, and the next receive waits first. */
enum { MISSES = 4 };

/* `_MUCH` there: under a limit that is no shorter a moment is as long as under none. */
static const double MUCH = 0.1;

/* What a wait has ended with, beside NOTHING and RAISED: it is for Python to say. */
enum { LEFT = REFUSED };

/* A receive. */
typedef struct {
    Verb *verb;
    PyObject *conn;
    Core *core;
    Claim *claim;
    double limit; /* in seconds, of the whole operation; below 0: none */
    double until; /* its end on the monotonic clock; 0 where there is none */
    int begun;    /* to count from the first wait on */
} Receive;

/* The core, if the connection is one that is served here; borrowed. */
static Core *
core_of(const Verb *verb, PyObject *conn)
{
    PyObject *core;

    if (!PyObject_TypeCheck(conn, verb->owner)) {
        return NULL;
    }
    core = verb_slot(verb, conn, ITS_CORE);
    if (!core || !is_core(verb->state, core) || !core_is_plain((Core *)core) ||
        !core_life((Core *)core)) {
        return NULL;
    }
    return (Core *)core;
}

/* The claim in a slot, taken; NULL: somebody has it. */
static Claim *
take_claim(const Verb *verb, PyObject *conn, int which)
{
    PyObject *claim = verb_slot(verb, conn, which);

    if (!claim || !Py_IS_TYPE(claim, verb->state->claim) || !claim_take((Claim *)claim)) {
        return NULL;
    }
    return (Claim *)Py_NewRef(claim);
}

/* Whether nobody receives: who does waits beside what is sent, which is not kept back then. */
static int
is_free(const Verb *verb, PyObject *conn)
{
    PyObject *claim = verb_slot(verb, conn, ITS_READING);

    return claim && Py_IS_TYPE(claim, verb->state->claim) && !((Claim *)claim)->held;
}

/* Have Python raise the library's error for the system call's that is set. */
static PyObject *
send_failed(const Verb *verb, PyObject *conn)
{
    PyObject *kind, *error, *traceback, *done;

    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    done = PyObject_CallMethodOneArg(conn, verb->state->names[SEND_FAILED], error);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return done;
}

static void
give_back(Claim *claim)
{
    claim_release(claim);
    Py_DECREF(claim);
}

/* Begin to receive; 0: it is for Python. */
static int
begin(Receive *call, Verb *verb, PyObject *conn)
{
    Core *core = core_of(verb, conn);
    const Life *life;

    if (!core) {
        return 0;
    }
    life = core_life(core);
    if (!life || life->over || life->peer_ended || core_failed(core)) {
        return 0;
    }
    call->claim = take_claim(verb, conn, ITS_READING);
    if (!call->claim) {
        return 0;
    }
    call->verb = verb;
    call->conn = conn;
    call->core = (Core *)Py_NewRef(core);
    call->limit = -1;
    call->until = 0;
    call->begun = 0;
    return 1;
}

static void
end(Receive *call)
{
    give_back(call->claim);
    Py_DECREF(call->core);
}

/* How long it may take, by the connection's mode; 0: an error is set. */
static int
begin_span(Receive *call)
{
    PyObject *end = verb_slot(call->verb, call->conn, ITS_END);
    PyObject *limit = verb_slot(call->verb, call->conn, ITS_LIMIT);

    if (call->begun || !limit || limit == Py_None) {
        return 1;
    }
    call->begun = 1;
    call->limit = PyFloat_AsDouble(limit);
    if (call->limit == -1.0 && PyErr_Occurred()) {
        return 0;
    }
    if (end && end != Py_None) { /* a deadline, of several operations */
        call->until = PyFloat_AsDouble(end);
        if (call->until == -1.0 && PyErr_Occurred()) {
            return 0;
        }
        call->limit = call->until - core_now();
        call->limit = call->limit > 0 ? call->limit : 0;
    } else if (call->limit > 0) {
        call->until = core_now() + call->limit;
    }
    return 1;
}

/* As `Span` of `_stream/_shell.py`: what has begun, None where nothing has. */
static PyObject *
span_of(const Receive *call)
{
    if (call->limit < 0 || call->until <= 0) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("dd", call->limit, call->until);
}

static long
patience_of(const Receive *call)
{
    PyObject *patience = verb_slot(call->verb, call->conn, ITS_PATIENCE);

    return patience ? PyLong_AsLong(patience) : CAREFULLY;
}

/* Whether to receive before a wait.  Not what the keeper is to have first; and where a crash counts, not
   before anything has come: while it is tried, the record says that it has. */
static int
tries(const Receive *call)
{
    const Core *core = call->core;

    return core->unwaited < HELPINGS && core->missed < MISSES && patience_of(call) > UNOFFERED &&
           (core->plain_ledger->read || !core->shelf || core->shelf == Py_None);
}

/* What Python says in place of a number: that it waits itself, or that an error is set. */
enum { ITSELF = -1, NOT_SAID = -2 };

/* Have Python say for how many milliseconds to wait; 0: others wait for the seat. */
static long
ask_for_moment(const Receive *call)
{
    PyObject *limit = call->limit < 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(call->limit);
    PyObject *moment = limit ? PyObject_CallMethodOneArg(call->conn, call->verb->state->names[MOMENT], limit)
                             : NULL;
    long milliseconds;

    Py_XDECREF(limit);
    if (!moment) {
        return NOT_SAID;
    }
    milliseconds = moment == Py_None ? ITSELF : PyLong_AsLong(moment);
    Py_DECREF(moment);
    return milliseconds < 0 && PyErr_Occurred() ? NOT_SAID : milliseconds;
}

/* Whether a moment may be used again: it depends on nothing that is over with it, or that cannot be seen here. */
static int
lasts(const Receive *call)
{
    PyObject *orders = verb_slot(call->verb, call->conn, ITS_ORDERS);

    return patience_of(call) == FOR_A_MOMENT && (call->limit < 0 || call->limit >= MUCH) && orders &&
           Py_IS_TYPE(orders, call->verb->state->orders) && !orders_crowded((Orders *)orders);
}

/* For how many milliseconds to wait, as `ask_for_moment`.  An answer is good for as long as it is itself: until
   then a wait that began with it would go on, too. */
static long
moment_of(const Receive *call, double now)
{
    Core *core = call->core;
    uint32_t at = (uint32_t)(uint64_t)(now * 1000);
    int keeps = lasts(call);
    long milliseconds;

    if (keeps && core->moment && (int32_t)(core->asked_until - at) > 0) {
        return core->moment;
    }
    milliseconds = ask_for_moment(call);
    core->moment = keeps && milliseconds > 0 && milliseconds <= UCHAR_MAX ? (unsigned char)milliseconds : 0;
    core->asked_until = at + core->moment;
    return milliseconds;
}

/* Leave, if this is a safe point, since others wait for the seat: RAISED then, LEFT if it is not, and
   NOTHING if there may be something to receive. */
static int
give_way(const Receive *call, struct pollfd *input, int tried)
{
    PyObject *stayed;
    int found = tried ? 0 : poll(input, 1, 0);

    if (found) {
        return found > 0 ? NOTHING : LEFT;
    }
    stayed = PyObject_CallMethodNoArgs(call->conn, call->verb->state->names[GIVE_WAY]);
    Py_XDECREF(stayed);
    return stayed ? LEFT : RAISED;
}

/* Wait a moment, if Python says for how many milliseconds: NOTHING, LEFT or RAISED.  tried: nothing is
   there, as it was just now. */
static int
wait_a_moment(Receive *call, struct pollfd *watched, nfds_t count, int tried)
{
    PyObject *waited = verb_slot(call->verb, call->conn, ITS_WAITED);
    double now;
    long milliseconds;
    int found;

    if (waited && PyObject_IsTrue(waited)) {
        return LEFT;
    }
    now = core_now();
    milliseconds = moment_of(call, now);
    if (milliseconds < 0) {
        return milliseconds == NOT_SAID ? RAISED : LEFT;
    }
    if (milliseconds == 0) {
        return give_way(call, watched, tried);
    }
    found = wait_for(watched, count, (int)milliseconds, now + (double)milliseconds / 1000);
    if (found == 0) {
        PyObject *seconds = PyFloat_FromDouble((double)milliseconds / 1000);

        call->core->moment = 0;
        if (!seconds || PyObject_SetAttr(call->conn, call->verb->state->names[WAITED], seconds) < 0) {
            Py_XDECREF(seconds);
            return RAISED;
        }
        Py_DECREF(seconds);
    }
    return found < 0 ? RAISED : found == READY ? NOTHING : LEFT;
}

/* Have the record say that the handler waits no more; `found` is what the wait has ended with. */
static int
end_waiting(const Core *core, int found)
{
    PyObject *kind, *value, *traceback;

    PyErr_Fetch(&kind, &value, &traceback);
    if (ledger_store(core->plain_ledger, WAITING, 0) < 0 && kind) {
        PyErr_Clear(); /* there is one to be raised already */
    }
    if (kind) {
        PyErr_Restore(kind, value, traceback);
    }
    return PyErr_Occurred() ? RAISED : found;
}

/* Wait until there may be something to receive: NOTHING then, LEFT or RAISED.  tried: as above. */
static int
wait_for_input(Receive *call, int tried)
{
    PyObject *orders = verb_slot(call->verb, call->conn, ITS_ORDERS);
    struct pollfd watched[2] = {{.events = POLLIN}, {.events = POLLIN}};
    nfds_t count = 1;
    long how = patience_of(call);
    int found;

    if (how == CAREFULLY || !begin_span(call)) {
        return PyErr_Occurred() ? RAISED : LEFT;
    }
    watched[0].fd = core_descriptor(call->core);
    if (call->limit == 0 || watched[0].fd < 0) {
        return LEFT;
    }
    if (orders && orders != Py_None) {
        watched[1].fd = ((Orders *)orders)->wake_fd;
        count = 2;
    }
    if (ledger_store(call->core->plain_ledger, WAITING, 1) < 0) {
        return RAISED;
    }
    if (how < TO_THE_END) {
        found = wait_a_moment(call, watched, count, tried);
    } else {
        found = wait_for(watched, count, call->until > 0 ? milliseconds_until(call->until) : -1,
                         call->until);
        found = found < 0 ? RAISED : found == READY ? NOTHING : LEFT;
    }
    call->core->unwaited = 0;
    return end_waiting(call->core, found);
}

/* Whether the server may have an order: in a row of receives that never wait nobody would hear it. */
static int
is_ordered(const Receive *call)
{
    PyObject *orders = verb_slot(call->verb, call->conn, ITS_ORDERS);

    if (!orders || orders == Py_None) {
        return 0;
    }
    return !Py_IS_TYPE(orders, call->verb->state->orders) || orders_given((Orders *)orders);
}

/* Send what is gathered, which goes out before a wait: NOTHING is left of it, LEFT or RAISED. */
static int
send_held(Receive *call)
{
    PyObject *held = verb_slot(call->verb, call->conn, ITS_GATHERED), *raised;
    Claim *claim;
    int sent;

    if (!core_held(held)) {
        return NOTHING;
    }
    if (is_ordered(call) || verb_slot(call->verb, call->conn, ITS_UNSENT) != Py_None ||
        !core_sends(call->core)) {
        return LEFT;
    }
    claim = take_claim(call->verb, call->conn, ITS_SENDING);
    if (!claim) {
        return LEFT;
    }
    sent = core_send_held(call->core, held);
    if (sent < 0 && PyErr_ExceptionMatches(PyExc_OSError)) {
        raised = send_failed(call->verb, call->conn);
        Py_XDECREF(raised); /* it raises */
    }
    give_back(claim);
    return sent < 0 ? RAISED : sent ? NOTHING : LEFT;
}

/* Receive once, into the buffer or, `straight`, to `*data`: ARRIVED, EOF_CAME, LEFT or RAISED. */
static int
receive(Receive *call, int straight, size_t most, PyObject **data)
{
    Core *core = call->core;
    int waited = 0, tried = 0, came = send_held(call);

    if (came != NOTHING) {
        return came;
    }
    for (;;) {
        if (is_ordered(call)) {
            return LEFT;
        }
        if (waited || !tries(call)) {
            came = wait_for_input(call, tried);
            if (came != NOTHING) {
                return came;
            }
            waited = 1;
            if (core_is_over(core) || !core_is_plain(core)) {
                return LEFT;
            }
        }
        came = straight ? core_receive(core, most, data) : core_fill(core, most);
        if (came != NOTHING) {
            break;
        }
        core->missed = (unsigned char)(core->missed + !waited);
        tried = !waited;
        waited = 1;
    }
    if (came == ARRIVED) {
        size_t size = core->plain_buffer->end - core->plain_buffer->pos;

        size += straight ? (size_t)PyBytes_GET_SIZE(*data) : 0;
        if (!waited) {
            core->unwaited = (short)(core->unwaited + (size >= LARGE_HELPING ? HELPINGS : 1));
        }
        if (!waited || size >= LARGE_HELPING) {
            core->missed = 0;
        }
    }
    return came == FAILED ? LEFT : came;
}

PyObject *
sync_recv(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t most = recv_most(args, flagged, names);
    PyObject *data = NULL, *span;
    Receive call;
    int came;

    if (!most || !begin(&call, verb, args[0])) {
        return verb_in_python(verb, args, flagged, names);
    }
    came = receive(&call, 1, (size_t)most, &data);
    if (came == EOF_CAME) {
        came = core_is_over(call.core) ? LEFT : EOF_CAME;
    }
    end(&call);
    switch (came) {
    case ARRIVED:
        return data;
    case RAISED:
        return NULL;
    case EOF_CAME:
        return PyBytes_FromStringAndSize(NULL, 0);
    default:
        span = span_of(&call);
        return span ? PyObject_CallMethod(args[0], "_recv_within", "nN", most, span) : NULL;
    }
}

/* Receive until the taker finds in the buffer what it wants: as `receive`, or REFUSED. */
static int
receive_message(Receive *call, PyObject *const *args, Py_ssize_t bound, Py_ssize_t wanted,
                PyObject **data)
{
    Buffer *buffer = call->core->plain_buffer;
    int came = NOTHING;

    if (is_ordered(call)) {
        return LEFT;
    }
    if (buffer->end > buffer->pos || wanted == 0) {
        came = message_take(call->verb->state, buffer, args[2], args[3], bound, data);
    }
    while (came == NOTHING) {
        came = receive(call, 0, wanted > CHUNK ? LARGE_CHUNK : CHUNK, NULL);
        if (came == ARRIVED) {
            came = message_take(call->verb->state, buffer, args[2], args[3], bound, data);
        }
    }
    return came;
}

/* (conn, operation, take, bound, wanted, timeout, at_eof) */
PyObject *
sync_message(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t bound, wanted = -1;
    PyObject *data = NULL, *span, *message;
    Receive call;
    int came;

    if (names || PyVectorcall_NARGS(flagged) != 7 || args[5] != Py_None ||
        !begin(&call, verb, args[0])) {
        return verb_in_python(verb, args, flagged, names);
    }
    bound = PyNumber_AsSsize_t(args[3], NULL);
    if (args[4] != Py_None && !PyErr_Occurred()) {
        wanted = PyNumber_AsSsize_t(args[4], NULL);
    }
    came = PyErr_Occurred() ? RAISED : receive_message(&call, args, bound, wanted, &data);
    if (came == EOF_CAME) {
        came = core_is_over(call.core) ? LEFT : EOF_CAME;
    }
    end(&call);
    switch (came) {
    case TAKEN:
        return data;
    case RAISED:
        return NULL;
    case EOF_CAME:
        return PyObject_CallNoArgs(args[6]);
    default:
        span = span_of(&call);
        if (!span) {
            return NULL;
        }
        message = PyObject_CallFunctionObjArgs(verb->function, args[0], args[1], args[2], args[3],
                                               args[4], args[5], args[6], Py_False, span, NULL);
        Py_DECREF(span);
        return message;
    }
}

/* Whether a send goes out as it is, and at once; -1: an error is set. */
static int
sends_at_once(const Verb *verb, PyObject *conn, const Core *core, PyObject *data)
{
    PyObject *unsent = verb_slot(verb, conn, ITS_UNSENT), *handled = NULL;
    int own;

    if (!PyBytes_CheckExact(data) || !PyBytes_GET_SIZE(data) || unsent != Py_None ||
        !core_sends(core)) {
        return 0;
    }
    if (!core->retains) {
        return 1;
    }
    /* A send from elsewhere is a push: Python accounts for it. */
    if (PyContextVar_Get(verb->handling, NULL, &handled) < 0) {
        return -1;
    }
    own = handled == conn;
    Py_XDECREF(handled);
    return own;
}

/* Whether a connection ends as most do: nothing is to be sent before, and no thread is on it. */
static int
ends_at_once(const Verb *verb, PyObject *conn, const Life *life)
{
    return verb_slot(verb, conn, ITS_GATHERED) == Py_None && !life->over;
}

PyObject *
sync_end(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t given = PyVectorcall_NARGS(flagged);
    int usual = given == 2 && (!names || PyTuple_GET_SIZE(names) == 1);
    Core *core = usual ? core_of(verb, args[0]) : NULL;
    Life *life = core ? core_life(core) : NULL;
    int fd = life && ends_at_once(verb, args[0], life) ? core_descriptor(core) : -1, ended;
    Claim *sending = fd < 0 ? NULL : take_claim(verb, args[0], ITS_SENDING);
    Claim *reading = sending ? take_claim(verb, args[0], ITS_READING) : NULL;
    PyObject *done = NULL;

    if (!reading || !life) {
        if (sending) {
            give_back(sending);
        }
        return verb_in_python(verb, args, flagged, names);
    }
    Py_INCREF(core);
    ended = core_end(core, life, fd);
    if (ended == 1) {
        done = Py_NewRef(Py_None);
    } else if (ended == 0) {
        PyObject *how[] = {args[0], args[1], names ? args[2] : Py_False};

        done = PyObject_VectorcallMethod(verb->state->names[END_ON], how, 3, NULL);
    }
    give_back(reading);
    give_back(sending);
    Py_DECREF(core);
    return done;
}

PyObject *
sync_send(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Core *core = names || PyVectorcall_NARGS(flagged) != 2 ? NULL : core_of(verb, args[0]);
    int plain = core ? sends_at_once(verb, args[0], core, args[1]) : 0;
    PyObject *done = NULL;
    Py_ssize_t size, sent;
    Claim *claim;
    int kept;

    if (plain < 0) {
        return NULL;
    }
    claim = plain ? take_claim(verb, args[0], ITS_SENDING) : NULL;
    if (!claim) {
        return verb_in_python(verb, args, flagged, names);
    }
    kept = core_keep_back(core, verb_slot(verb, args[0], ITS_GATHERED), args[1], is_free(verb, args[0]));
    if (kept != GOES_OUT) {
        give_back(claim);
        return kept == KEPT          ? Py_NewRef(Py_None)
               : kept == KEEP_FAILED ? NULL
                                     : verb_in_python(verb, args, flagged, names);
    }
    Py_INCREF(core);
    size = PyBytes_GET_SIZE(args[1]);
    sent = core_send(core, PyBytes_AS_STRING(args[1]), size, 0);
    if (sent == size) {
        done = Py_NewRef(Py_None);
    } else if (sent >= 0) {
        done = PyObject_CallMethod(args[0], "_send_rest", "On", args[1], sent);
    } else if (PyErr_ExceptionMatches(PyExc_OSError)) {
        done = send_failed(verb, args[0]);
    }
    give_back(claim);
    Py_DECREF(core);
    return done;
}
