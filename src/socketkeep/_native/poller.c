/* Waiting for one descriptor, and for a word from the server meanwhile: the twins of `Poller` and
   `Orders` in `_stream/_waiting.py`.

   A poller owns nothing but its two numbers, the orders of a worker a view of the scoreboard's header.
   A wait gives the interpreter's lock away; a look does not. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <structmember.h>
#include <time.h>

/* poll(2) takes milliseconds in an int. */
enum { LONGEST = 2147483647 };

typedef struct {
    PyObject_HEAD
    struct pollfd watched[2]; /* the descriptor, and the one that interrupts */
    nfds_t count;             /* 1: nothing interrupts */
} Poller;

int
milliseconds_until(double moment)
{
    double left = ceil((moment - core_now()) * 1000);

    return left > 0 ? left < LONGEST ? (int)left : LONGEST : 0;
}

int
is_only_thread(void)
{
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *first = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own));

    return first == own && !PyThreadState_Next(first);
}

/* How many threads have waited for long enough, and now wait for the interpreter's lock. */
static atomic_int coming_back;

int
wait_for(struct pollfd *watched, nfds_t count, int milliseconds, double moment)
{
    int ready, code, found = 0;

    for (;;) {
        if (milliseconds == 0) {
            ready = poll(watched, count, 0);
            code = errno;
        } else {
            int yields = atomic_load(&coming_back) && !is_only_thread();

            Py_BEGIN_ALLOW_THREADS
            /* Whoever waits for the lock was told that it is free, but is not on a processor yet.  What
               a fast peer sends meanwhile would end this wait at once, and this thread would have the
               lock again, while all others look for it each 5 ms: with 1,000 threads that took nearly
               all of the processor.  Where nobody waits for it, another process would be let run first,
               for some milliseconds. */
            if (yields) {
                sched_yield();
            }
            ready = poll(watched, count, milliseconds);
            code = errno;
            atomic_fetch_add(&coming_back, 1);
            Py_END_ALLOW_THREADS
            atomic_fetch_sub(&coming_back, 1);
        }
        if (ready >= 0) {
            break;
        }
        if (code != EINTR) {
            errno = code;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (milliseconds > 0) {
            milliseconds = milliseconds_until(moment);
        }
    }
    if (watched[0].revents) {
        found |= READY;
    }
    if (count > 1 && watched[1].revents) {
        found |= WOKEN;
    }
    return found;
}

static PyObject *
found_by(Poller *poller, int milliseconds, double moment)
{
    struct pollfd watched[2] = {poller->watched[0], poller->watched[1]};
    int found = wait_for(watched, poller->count, milliseconds, moment);

    return found < 0 ? NULL : PyLong_FromLong(found);
}

static PyObject *
Poller_until(Poller *poller, PyObject *when)
{
    double moment;

    if (when == Py_None) {
        return found_by(poller, -1, 0);
    }
    moment = PyFloat_AsDouble(when);
    if (moment == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return found_by(poller, milliseconds_until(moment), moment);
}

static PyObject *
Poller_within(Poller *poller, PyObject *given)
{
    long milliseconds = PyLong_AsLong(given);

    if (milliseconds < 0 || milliseconds > LONGEST) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a wait is from 0 to 2147483647 milliseconds long");
        }
        return NULL;
    }
    return found_by(poller, (int)milliseconds,
                    milliseconds ? core_now() + (double)milliseconds / 1000 : 0);
}

static PyObject *
Poller_ignore_wake(Poller *poller, PyObject *Py_UNUSED(ignored))
{
    poller->count = 1;
    Py_RETURN_NONE;
}

static PyObject *
Poller_ignores_wake(Poller *poller, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(poller->count == 1);
}

static PyObject *
Poller_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *wake;
    Poller *poller;
    int fd, events, wake_fd = -1;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Poller() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iiO:Poller", &fd, &events, &wake)) {
        return NULL;
    }
    if (wake != Py_None) {
        wake_fd = PyLong_AsLong(wake);
        if (wake_fd == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    /* poll(2) passes a negative number over, and would wait for nothing. */
    if (fd < 0 || (wake != Py_None && wake_fd < 0)) {
        PyErr_SetString(PyExc_ValueError, "a descriptor is not negative");
        return NULL;
    }
    poller = (Poller *)type->tp_alloc(type, 0);
    if (poller) {
        poller->watched[0] = (struct pollfd){.fd = fd, .events = (short)events};
        poller->watched[1] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
        poller->count = wake == Py_None ? 1 : 2;
    }
    return (PyObject *)poller;
}

static void
Poller_dealloc(Poller *poller)
{
    PyTypeObject *type = Py_TYPE(poller);

    type->tp_free(poller);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"until", (PyCFunction)Poller_until, METH_O,
     "Wait until the moment, None for as long as it takes; return READY, WOKEN, their sum, or 0."},
    {"within", (PyCFunction)Poller_within, METH_O,
     "Wait as `until` does, for so many milliseconds; 0: only look."},
    {"ignore_wake", (PyCFunction)Poller_ignore_wake, METH_NOARGS,
     "Wait for the descriptor alone from here on."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"fd", T_INT, offsetof(Poller, watched[0].fd), READONLY, "The descriptor."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"ignores_wake", (getter)Poller_ignores_wake, NULL, "Whether nothing interrupts.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Poller_new},
    {Py_tp_dealloc, Poller_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {Py_tp_doc, "The twin of `_stream._waiting.Poller`."},
    {0, NULL},
};

PyType_Spec poller_spec = {
    .name = "socketkeep._native._core.Poller",
    .basicsize = sizeof(Poller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static PyObject *
Orders_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Py_buffer view;
    Orders *orders;
    int wake_fd;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Orders() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iy*:Orders", &wake_fd, &view)) {
        return NULL;
    }
    if (view.len <= CROWDED * (Py_ssize_t)sizeof(uint64_t) || (uintptr_t)view.buf % sizeof(uint64_t)) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "the header of a scoreboard has 32 words of 64 bits");
        return NULL;
    }
    orders = (Orders *)type->tp_alloc(type, 0);
    if (!orders) {
        PyBuffer_Release(&view);
        return NULL;
    }
    orders->view = view;
    orders->words = view.buf;
    orders->wake_fd = wake_fd;
    return (PyObject *)orders;
}

static void
Orders_dealloc(Orders *orders)
{
    PyTypeObject *type = Py_TYPE(orders);

    if (orders->view.obj) {
        PyBuffer_Release(&orders->view);
    }
    type->tp_free(orders);
    Py_DECREF(type);
}

static PyObject *
Orders_given(Orders *orders, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(orders_given(orders));
}

static PyMemberDef orders_members[] = {
    {"wake_fd", T_INT, offsetof(Orders, wake_fd), READONLY, "What interrupts a wait."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef orders_properties[] = {
    {"given", (getter)Orders_given, NULL, "Whether there is one.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot orders_slots[] = {
    {Py_tp_new, Orders_new},
    {Py_tp_dealloc, Orders_dealloc},
    {Py_tp_members, orders_members},
    {Py_tp_getset, orders_properties},
    {Py_tp_doc, "The twin of `_stream._waiting.Orders`."},
    {0, NULL},
};

PyType_Spec orders_spec = {
    .name = "socketkeep._native._core.Orders",
    .basicsize = sizeof(Orders),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = orders_slots,
};
