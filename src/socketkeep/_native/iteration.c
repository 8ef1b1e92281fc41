/* The iterator over a connection's messages: the twin of `_AsyncIteration` of `_stream/_aio.py`, and of
   `_Iteration` of `_stream/_connection.py`.

   It owns what each receive is asked for.  Called with a bound it takes a message that is committed when the
   next is asked for; called without, it gives the last one at the peer's end, or ends. */

#include "core.h"

typedef struct {
    PyObject_HEAD
    PyObject *conn;
    PyObject *operation;
    PyObject *take;
    PyObject *bound;
    PyObject *at_end;
    PyObject *timeout;
    State *state;
    PyObject *stop; /* the class of the exception at the end; borrowed from the interpreter */
    char commits;
    char due; /* a message has been given, and is to be committed before the next */
} Iteration;

/* Receive the next message: what the connection's verb returns. */
static PyObject *
next(Iteration *iteration)
{
    PyObject *const *names = iteration->state->names;
    PyObject *self = (PyObject *)iteration, *take = iteration->commits ? self : iteration->take;
    PyObject *args[] = {iteration->conn, iteration->operation, take, iteration->bound,
                        Py_None,         iteration->timeout,   self};

    if (iteration->due) {
        PyObject *done;

        iteration->due = 0;
        done = PyObject_CallMethodNoArgs(iteration->conn, names[COMMIT]);
        if (!done) {
            return NULL;
        }
        Py_DECREF(done);
    }
    return PyObject_VectorcallMethod(names[RECEIVE], args, 7, NULL);
}

static PyObject *
take(Iteration *iteration, PyObject *bound)
{
    PyObject *message = PyObject_CallOneArg(iteration->take, bound);

    if (message) {
        iteration->due = message != Py_None;
    }
    return message;
}

static PyObject *
last(Iteration *iteration)
{
    PyObject *message = PyObject_CallNoArgs(iteration->at_end);

    if (message == Py_None) {
        Py_CLEAR(message);
        PyErr_SetNone(iteration->stop);
    }
    return message;
}

static PyObject *
Iteration_call(Iteration *iteration, PyObject *args, PyObject *keywords)
{
    PyObject *bound = NULL;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "an iteration takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "|O", &bound)) {
        return NULL;
    }
    return bound ? take(iteration, bound) : last(iteration);
}

static PyObject *
new_iteration(PyTypeObject *type, PyObject *args, PyObject *keywords, PyObject *stop)
{
    PyObject *conn, *operation, *taker, *bound, *at_end, *timeout;
    Iteration *iteration;
    int commits;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "an iteration takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOOOOpO", &conn, &operation, &taker, &bound, &at_end, &commits, &timeout)) {
        return NULL;
    }
    iteration = (Iteration *)type->tp_alloc(type, 0);
    if (!iteration) {
        return NULL;
    }
    iteration->conn = Py_NewRef(conn);
    iteration->operation = Py_NewRef(operation);
    iteration->take = Py_NewRef(taker);
    iteration->bound = Py_NewRef(bound);
    iteration->at_end = Py_NewRef(at_end);
    iteration->timeout = Py_NewRef(timeout);
    iteration->state = PyType_GetModuleState(type);
    iteration->stop = stop;
    iteration->commits = (char)commits;
    return (PyObject *)iteration;
}

static PyObject *
Iteration_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    return new_iteration(type, args, keywords, PyExc_StopIteration);
}

static PyObject *
AsyncIteration_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    return new_iteration(type, args, keywords, PyExc_StopAsyncIteration);
}

static int
Iteration_traverse(Iteration *iteration, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(iteration));
    Py_VISIT(iteration->conn);
    Py_VISIT(iteration->operation);
    Py_VISIT(iteration->take);
    Py_VISIT(iteration->bound);
    Py_VISIT(iteration->at_end);
    Py_VISIT(iteration->timeout);
    return 0;
}

/* Whoever is cleared with it may still ask it for a message: it refers to None then. */
static int
Iteration_tp_clear(Iteration *iteration)
{
    Py_XSETREF(iteration->conn, Py_NewRef(Py_None));
    Py_XSETREF(iteration->take, Py_NewRef(Py_None));
    Py_XSETREF(iteration->at_end, Py_NewRef(Py_None));
    return 0;
}

static void
Iteration_dealloc(Iteration *iteration)
{
    PyTypeObject *type = Py_TYPE(iteration);

    PyObject_GC_UnTrack(iteration);
    Py_CLEAR(iteration->conn);
    Py_CLEAR(iteration->operation);
    Py_CLEAR(iteration->take);
    Py_CLEAR(iteration->bound);
    Py_CLEAR(iteration->at_end);
    Py_CLEAR(iteration->timeout);
    type->tp_free(iteration);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_new, Iteration_new},
    {Py_tp_dealloc, Iteration_dealloc},
    {Py_tp_traverse, Iteration_traverse},
    {Py_tp_clear, Iteration_tp_clear},
    {Py_tp_call, Iteration_call},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next},
    {Py_tp_doc, "The twin of `_stream._connection._Iteration`."},
    {0, NULL},
};

PyType_Spec iteration_spec = {
    .name = "socketkeep._native._core._Iteration",
    .basicsize = sizeof(Iteration),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static PyType_Slot async_slots[] = {
    {Py_tp_new, AsyncIteration_new},
    {Py_tp_dealloc, Iteration_dealloc},
    {Py_tp_traverse, Iteration_traverse},
    {Py_tp_clear, Iteration_tp_clear},
    {Py_tp_call, Iteration_call},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, next},
    {Py_tp_doc, "The twin of `_stream._aio._AsyncIteration`."},
    {0, NULL},
};

PyType_Spec async_iteration_spec = {
    .name = "socketkeep._native._core._AsyncIteration",
    .basicsize = sizeof(Iteration),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = async_slots,
};
