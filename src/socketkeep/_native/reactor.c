/* One epoll for all connections of an async worker: the twin of `_worker/_reactor.EpollReactor`.

   It owns the epoll, and a reference to each reader, by the number of its descriptor.  A connection's
   task is resumed from here, without a frame of Python's in between.  It is level triggered: what is
   read in part is told of again, and an error that a task raises loses no event. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <unistd.h>

/* How many connections are served before the loop's other callbacks get their turn. */
enum { AT_ONCE = 256 };

struct reactor {
    PyObject_HEAD
    PyObject *loop;
    PyObject *done; /* what a task is resumed with */
    PyObject **readers;
    int size; /* how many numbers there is room for */
    int epoll;
    State *state;
};

/* Take out what is at this number; NULL: nothing was. */
static PyObject *
taken_out(Reactor *reactor, int fd)
{
    PyObject *reader = NULL;

    if (fd >= 0 && fd < reactor->size) {
        reader = reactor->readers[fd];
        reactor->readers[fd] = NULL;
    }
    if (reader) {
        /* It fails where the descriptor was closed by its number: it is not watched any more. */
        (void)epoll_ctl(reactor->epoll, EPOLL_CTL_DEL, fd, NULL);
    }
    return reader;
}

static int
have_room(Reactor *reactor, int fd)
{
    int size = reactor->size ? reactor->size : 64;
    PyObject **readers;

    if (fd < reactor->size) {
        return 0;
    }
    while (size <= fd) {
        if (size > INT_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
        size *= 2;
    }
    readers = PyMem_Resize(reactor->readers, PyObject *, (size_t)size);
    if (!readers) {
        PyErr_NoMemory();
        return -1;
    }
    for (int each = reactor->size; each < size; each++) {
        readers[each] = NULL;
    }
    reactor->readers = readers;
    reactor->size = size;
    return 0;
}

/* The waiter of a connection, which is dealt with here, or else the reader itself. */
static PyObject *
served(Reactor *reactor, PyObject *reader)
{
    PyObject *waiter = PyObject_GetAttr(reader, reactor->state->names[WAITER]);

    if (waiter && Py_TYPE(waiter) == reactor->state->waiter) {
        return waiter;
    }
    Py_XDECREF(waiter);
    PyErr_Clear();
    return Py_NewRef(reader);
}

/* Have a reader told; -1: an error is set.  The reference is the table's. */
static int
add(Reactor *reactor, int fd, PyObject *reader)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    PyObject *before;
    int failed;

    if (have_room(reactor, fd) < 0) {
        Py_DECREF(reader);
        return -1;
    }
    failed = epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EEXIST;
    if (failed) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(reader);
    }
    before = reactor->readers[fd];
    reactor->readers[fd] = reader;
    Py_XDECREF(before);
    return failed ? -1 : 0;
}

Reactor *
reactor_of(const State *state, PyObject *conn)
{
    PyObject *hooks = PyObject_GetAttr(conn, state->names[HOOKS]);
    PyObject *reactor = hooks ? PyObject_GetAttr(hooks, state->names[REACTOR]) : NULL;

    Py_XDECREF(hooks);
    if (reactor && Py_TYPE(reactor) != state->reactor) {
        Py_CLEAR(reactor);
    }
    return (Reactor *)reactor;
}

int
reactor_watch(Reactor *reactor, int fd, Waiter *waiter)
{
    if (add(reactor, fd, Py_NewRef(waiter)) < 0) {
        return -1;
    }
    waiter->watching = 1;
    return 0;
}

void
reactor_unwatch(Reactor *reactor, int fd, Waiter *waiter)
{
    waiter->watching = 0;
    Py_XDECREF(taken_out(reactor, fd));
}

static PyObject *
Reactor_add_reader(Reactor *reactor, PyObject *const *args, Py_ssize_t given)
{
    int fd;

    if (given != 2) {
        PyErr_Format(PyExc_TypeError, "add_reader() takes 2 arguments (%zd given)", given);
        return NULL;
    }
    fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0) {
        return NULL;
    }
    return core_done(add(reactor, fd, served(reactor, args[1])));
}

static PyObject *
Reactor_remove_reader(Reactor *reactor, PyObject *number)
{
    long fd = PyLong_AsLong(number);

    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_XDECREF(fd > INT_MAX ? NULL : taken_out(reactor, (int)fd));
    Py_RETURN_NONE;
}

/* Tell a reader that its descriptor is readable. */
static int
tell(Reactor *reactor, int fd, PyObject *reader)
{
    PyObject *result;
    Waiter *waiter;

    if (Py_TYPE(reader) != reactor->state->waiter) {
        result = PyObject_CallMethodNoArgs(reader, reactor->state->names[ON_READABLE]);
        Py_XDECREF(result);
        return result ? 0 : -1;
    }
    waiter = (Waiter *)reader;
    if (waiter->pending) {
        waiter->came = 0; /* _READY */
        return waiter_resume(waiter, reactor->done);
    }
    /* Nobody waits: the bytes stay in the kernel, and nobody is told of them again. */
    waiter->watching = 0;
    Py_XDECREF(taken_out(reactor, fd));
    return 0;
}

static PyObject *
Reactor_run(Reactor *reactor, PyObject *Py_UNUSED(ignored))
{
    struct epoll_event events[AT_ONCE];
    int count = epoll_wait(reactor->epoll, events, AT_ONCE, 0);

    if (count < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    for (int each = 0; each < count; each++) {
        int fd = events[each].data.fd, failed;
        PyObject *reader = fd < reactor->size ? reactor->readers[fd] : NULL;

        if (!reader) {
            continue; /* one of those before has ended it */
        }
        Py_INCREF(reader);
        failed = tell(reactor, fd, reader);
        Py_DECREF(reader);
        if (failed) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static void
let_go_of_readers(Reactor *reactor)
{
    PyObject **readers = reactor->readers;
    int size = reactor->size;

    reactor->readers = NULL;
    reactor->size = 0;
    for (int each = 0; each < size; each++) {
        Py_XDECREF(readers[each]);
    }
    PyMem_Free(readers);
}

static PyObject *
Reactor_close(Reactor *reactor, PyObject *Py_UNUSED(ignored))
{
    PyObject *done;

    if (reactor->epoll < 0) {
        Py_RETURN_NONE;
    }
    done = PyObject_CallMethod(reactor->loop, "remove_reader", "i", reactor->epoll);
    if (!done) {
        return NULL;
    }
    Py_DECREF(done);
    close(reactor->epoll);
    reactor->epoll = -1;
    let_go_of_readers(reactor);
    Py_RETURN_NONE;
}

static PyObject *
Reactor_readers(Reactor *reactor, void *Py_UNUSED(closure))
{
    PyObject *found = PyDict_New();

    for (int each = 0; found && each < reactor->size; each++) {
        if (reactor->readers[each]) {
            PyObject *number = PyLong_FromLong(each);

            if (!number || PyDict_SetItem(found, number, reactor->readers[each]) < 0) {
                Py_CLEAR(found);
            }
            Py_XDECREF(number);
        }
    }
    return found;
}

static PyObject *
Reactor_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *loop, *outcome, *run, *done;
    Reactor *reactor;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "EpollReactor() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO:EpollReactor", &loop, &outcome)) {
        return NULL;
    }
    reactor = (Reactor *)type->tp_alloc(type, 0);
    if (!reactor) {
        return NULL;
    }
    reactor->epoll = -1;
    reactor->loop = Py_NewRef(loop);
    reactor->done = Py_NewRef(outcome);
    reactor->state = PyType_GetModuleState(type);
    reactor->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!reactor->state || reactor->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(reactor);
        return NULL;
    }
    run = PyObject_GetAttrString((PyObject *)reactor, "_run");
    done = run ? PyObject_CallMethod(loop, "add_reader", "iO", reactor->epoll, run) : NULL;
    Py_XDECREF(run);
    if (!done) {
        Py_DECREF(reactor);
        return NULL;
    }
    Py_DECREF(done);
    return (PyObject *)reactor;
}

static int
Reactor_traverse(Reactor *reactor, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(reactor));
    Py_VISIT(reactor->loop);
    Py_VISIT(reactor->done);
    for (int each = 0; each < reactor->size; each++) {
        Py_VISIT(reactor->readers[each]);
    }
    return 0;
}

static int
Reactor_clear(Reactor *reactor)
{
    Py_CLEAR(reactor->loop);
    Py_CLEAR(reactor->done);
    let_go_of_readers(reactor);
    return 0;
}

static void
Reactor_dealloc(Reactor *reactor)
{
    PyTypeObject *type = Py_TYPE(reactor);

    PyObject_GC_UnTrack(reactor);
    if (reactor->epoll >= 0) {
        close(reactor->epoll);
    }
    Reactor_clear(reactor);
    type->tp_free(reactor);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"add_reader", (PyCFunction)(void (*)(void))Reactor_add_reader, METH_FASTCALL,
     "Call a reader whenever the descriptor is readable; raises OSError when it is not open."},
    {"remove_reader", (PyCFunction)Reactor_remove_reader, METH_O, "Watch a descriptor no longer."},
    {"close", (PyCFunction)Reactor_close, METH_NOARGS, "Let go of the loop, at the worker's end."},
    {"_run", (PyCFunction)Reactor_run, METH_NOARGS, "Tell all whose descriptors are readable."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"loop", T_OBJECT_EX, offsetof(Reactor, loop), READONLY, "The loop."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"_readers", (getter)Reactor_readers, NULL, "Who is told of which descriptor, for tests.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Reactor_new},
    {Py_tp_dealloc, Reactor_dealloc},
    {Py_tp_traverse, Reactor_traverse},
    {Py_tp_clear, Reactor_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {Py_tp_doc, "The twin of `_worker._reactor.EpollReactor`."},
    {0, NULL},
};

PyType_Spec reactor_spec = {
    .name = "socketkeep._native._core.EpollReactor",
    .basicsize = sizeof(Reactor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
