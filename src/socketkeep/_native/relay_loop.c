/* One epoll for all that an edge relays: the twin of `_edge/_relay_loop.RelayLoop`.

   It owns the epoll and, by the number of each descriptor that is watched, a reference to the callback,
   to the flow that is carried and to that flow's owner. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

/* How many are served before the edge's other descriptors get their turn. */
enum { AT_ONCE = 256 };

/* HUP and ERR come anyway. */
static const uint32_t WATCHED = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
/* Of the worker's side: how it has ended is not for who moves bytes. */
static const uint32_t GONE = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

typedef struct {
    PyObject *callback; /* NULL: it is not watched */
    Flow *flow;
    PyObject *owner;
    int room; /* it is told when there is some */
} Watched;

typedef struct {
    PyObject_HEAD
    PyObject *moved;
    PyObject *failed;
    Watched *watched;
    int size; /* how many numbers there is room for */
    int epoll;
    State *state;
} RelayLoop;

static void
drop(Watched watched)
{
    Py_XDECREF(watched.callback);
    Py_XDECREF(watched.flow);
    Py_XDECREF(watched.owner);
}

static int
have_room(RelayLoop *loop, int fd)
{
    int size = loop->size ? loop->size : 64;
    Watched *watched;

    if (fd < loop->size) {
        return 0;
    }
    while (size <= fd) {
        if (size > INT_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
        size *= 2;
    }
    watched = PyMem_Resize(loop->watched, Watched, (size_t)size);
    if (!watched) {
        PyErr_NoMemory();
        return -1;
    }
    for (int each = loop->size; each < size; each++) {
        watched[each] = (Watched){NULL, NULL, NULL, 0};
    }
    loop->watched = watched;
    loop->size = size;
    return 0;
}

int
relay_loop_watch(int epoll, int fd, int room)
{
    struct epoll_event event = {.events = room ? WATCHED : WATCHED & ~EPOLLOUT, .data.fd = fd};

    return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

static PyObject *
RelayLoop_watch(RelayLoop *loop, PyObject *const *args, Py_ssize_t given)
{
    struct epoll_event event = {.events = WATCHED};
    Watched before;
    int fd, room;

    if (given != 2 && given != 3) {
        PyErr_Format(PyExc_TypeError, "watch() takes 2 or 3 arguments (%zd given)", given);
        return NULL;
    }
    fd = PyObject_AsFileDescriptor(args[0]);
    room = given == 3 ? PyObject_IsTrue(args[2]) : 1;
    if (fd < 0 || room < 0 || have_room(loop, fd) < 0) {
        return NULL;
    }
    if (!room) {
        event.events &= ~EPOLLOUT;
    }
    event.data.fd = fd;
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    before = loop->watched[fd];
    loop->watched[fd] = (Watched){Py_NewRef(args[1]), NULL, NULL, room};
    drop(before);
    Py_RETURN_NONE;
}

static PyObject *
RelayLoop_watch_reactor(RelayLoop *loop, PyObject *number)
{
    struct epoll_event event = {.events = EPOLLIN};

    event.data.fd = PyObject_AsFileDescriptor(number);
    if (event.data.fd < 0) {
        return NULL;
    }
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, event.data.fd, &event) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
RelayLoop_carry(RelayLoop *loop, PyObject *const *args, Py_ssize_t given)
{
    Flow *flow;
    int fds[2];

    if (given != 2 || !PyObject_TypeCheck(args[0], loop->state->flow)) {
        PyErr_SetString(PyExc_TypeError, "carry() takes a Flow and its owner");
        return NULL;
    }
    flow = (Flow *)args[0];
    fds[0] = flow->client_fd;
    fds[1] = flow->plain_fd;
    for (int each = 0; each < 2; each++) {
        if (fds[each] < 0 || fds[each] >= loop->size || !loop->watched[fds[each]].callback) {
            PyErr_SetString(PyExc_ValueError, "one of its sides is not watched");
            return NULL;
        }
    }
    if (flow_carry(flow, loop->epoll, loop->watched[fds[1]].room) < 0) {
        return NULL;
    }
    for (int each = 0; each < 2; each++) {
        Watched *watched = &loop->watched[fds[each]];

        Py_XSETREF(watched->flow, (Flow *)Py_NewRef(args[0]));
        Py_XSETREF(watched->owner, Py_NewRef(args[1]));
    }
    Py_RETURN_NONE;
}

static PyObject *
RelayLoop_forget(RelayLoop *loop, PyObject *number)
{
    long fd = PyLong_AsLong(number);
    Watched before;

    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (fd < 0 || fd >= loop->size || !loop->watched[fd].callback) {
        Py_RETURN_NONE;
    }
    before = loop->watched[fd];
    loop->watched[fd] = (Watched){NULL, NULL, NULL, 0};
    drop(before);
    if (epoll_ctl(loop->epoll, EPOLL_CTL_DEL, (int)fd, NULL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* Move what can be moved, and have the owner told where that is not all. */
static int
move(RelayLoop *loop, const Watched *watched, int fd, uint32_t events)
{
    PyObject *done;
    int more;

    flow_note(watched->flow, fd, events);
    more = flow_go_on(watched->flow);
    if (more < 0) {
        return -1;
    }
    if (!more && !flow_is_over(watched->flow)) {
        return 0;
    }
    done = PyObject_CallFunctionObjArgs(loop->moved, watched->owner, more ? Py_True : Py_False, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int
call_back(const Watched *watched, uint32_t events)
{
    PyObject *told = PyLong_FromUnsignedLong(events);
    PyObject *done = told ? PyObject_CallOneArg(watched->callback, told) : NULL;

    Py_XDECREF(told);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Have an error be told of: what is to be moved elsewhere does not wait for it.  -1: it is no Exception,
   or to tell of it has failed. */
static int
tell_of_error(RelayLoop *loop)
{
    PyObject *kind, *error, *trace, *done;

    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    if (trace) {
        PyException_SetTraceback(error, trace);
    }
    done = PyObject_CallOneArg(loop->failed, error);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* In milliseconds, -1: without bound; -2: an error is set. */
static int
milliseconds(PyObject *seconds)
{
    double timeout = seconds == Py_None ? -1 : PyFloat_AsDouble(seconds) * 1e3;

    if (timeout < 0) {
        return PyErr_Occurred() ? -2 : -1;
    }
    /* Not too early, or it would be looked at the clock in vain. */
    return timeout > 1e9 ? 1000000000 : (int)timeout + ((int)timeout < timeout);
}

static PyObject *
RelayLoop_run(RelayLoop *loop, PyObject *const *args, Py_ssize_t given)
{
    struct epoll_event events[AT_ONCE];
    int timeout = given ? milliseconds(args[0]) : 0, count;

    if (timeout < -1) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(loop->epoll, events, AT_ONCE, timeout);
    Py_END_ALLOW_THREADS
    if (count < 0) {
        if (errno != EINTR) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    for (int each = 0; each < count; each++) {
        int fd = events[each].data.fd, failed;
        uint32_t ready = events[each].events;
        Watched watched;

        if (fd >= loop->size || !loop->watched[fd].callback) {
            continue; /* one of those before has ended it */
        }
        watched = loop->watched[fd];
        Py_INCREF(watched.callback);
        Py_XINCREF(watched.flow);
        Py_XINCREF(watched.owner);
        failed = watched.flow && !(ready & GONE && fd == watched.flow->plain_fd)
                     ? move(loop, &watched, fd, ready)
                     : call_back(&watched, ready);
        if (failed) {
            failed = tell_of_error(loop);
        }
        drop(watched);
        if (failed) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static void
let_go(RelayLoop *loop)
{
    Watched *watched = loop->watched;
    int size = loop->size;

    loop->watched = NULL;
    loop->size = 0;
    for (int each = 0; each < size; each++) {
        drop(watched[each]);
    }
    PyMem_Free(watched);
}

static PyObject *
RelayLoop_close(RelayLoop *loop, PyObject *Py_UNUSED(ignored))
{
    if (loop->epoll >= 0) {
        close(loop->epoll);
        loop->epoll = -1;
    }
    let_go(loop);
    Py_RETURN_NONE;
}

static PyObject *
RelayLoop_fileno(RelayLoop *loop, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(loop->epoll);
}

static PyObject *
RelayLoop_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *moved, *failed;
    RelayLoop *loop;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "RelayLoop() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO:RelayLoop", &moved, &failed)) {
        return NULL;
    }
    loop = (RelayLoop *)type->tp_alloc(type, 0);
    if (!loop) {
        return NULL;
    }
    loop->moved = Py_NewRef(moved);
    loop->failed = Py_NewRef(failed);
    loop->state = PyType_GetModuleState(type);
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(loop);
        return NULL;
    }
    return (PyObject *)loop;
}

static int
RelayLoop_traverse(RelayLoop *loop, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(loop));
    Py_VISIT(loop->moved);
    Py_VISIT(loop->failed);
    for (int each = 0; each < loop->size; each++) {
        Py_VISIT(loop->watched[each].callback);
        Py_VISIT(loop->watched[each].flow);
        Py_VISIT(loop->watched[each].owner);
    }
    return 0;
}

static int
RelayLoop_clear(RelayLoop *loop)
{
    Py_CLEAR(loop->moved);
    Py_CLEAR(loop->failed);
    let_go(loop);
    return 0;
}

static void
RelayLoop_dealloc(RelayLoop *loop)
{
    PyTypeObject *type = Py_TYPE(loop);

    PyObject_GC_UnTrack(loop);
    if (loop->epoll >= 0) {
        close(loop->epoll);
    }
    RelayLoop_clear(loop);
    type->tp_free(loop);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)RelayLoop_fileno, METH_NOARGS, "The epoll's number."},
    {"close", (PyCFunction)RelayLoop_close, METH_NOARGS, "Watch nothing any more."},
    {"watch", (PyCFunction)(void (*)(void))RelayLoop_watch, METH_FASTCALL,
     "Call back with the events of a descriptor."},
    {"carry", (PyCFunction)(void (*)(void))RelayLoop_carry, METH_FASTCALL,
     "Move what a flow's sides are ready for."},
    {"forget", (PyCFunction)RelayLoop_forget, METH_O, "Watch a descriptor no more."},
    {"watch_reactor", (PyCFunction)RelayLoop_watch_reactor, METH_O,
     "Wait no longer when something is ready in another epoll."},
    {"run", (PyCFunction)(void (*)(void))RelayLoop_run, METH_FASTCALL, "Wait, and serve what is ready."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, RelayLoop_new},
    {Py_tp_dealloc, RelayLoop_dealloc},
    {Py_tp_traverse, RelayLoop_traverse},
    {Py_tp_clear, RelayLoop_clear},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The twin of `_edge._relay_loop.RelayLoop`."},
    {0, NULL},
};

PyType_Spec relay_loop_spec = {
    .name = "socketkeep._native._core.RelayLoop",
    .basicsize = sizeof(RelayLoop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
