/* The coroutine of a connection's task in an async worker: it calls the handler, awaits that, and has the worker
   end the connection.  The twin of `_worker/_handler_runner.py`.

   It owns the entry, the connection, and the coroutine that it passes everything on to: the handler's, and then
   that of the end where the end takes more than a call.  It decides nothing. */

#include "core.h"

/* What those of a worker have in common. */
typedef struct {
    PyObject_HEAD
    State *state;
    PyObject *handling; /* the context variable of `_stream/_lease.py` */
    PyObject *call;     /* the handler */
    PyObject *ended;    /* `(entry, conn, error)`: what is still to be awaited, or None */
} Runner;

typedef enum { NOT_BEGUN, SERVES, ENDS, IS_OVER } Stage;

typedef struct {
    PyObject_HEAD
    Runner *runner;
    PyObject *entry;
    PyObject *conn;
    PyObject *inner;
    char stage;
    char running;
} Serving;

static int
Serving_clear(Serving *serving)
{
    Py_CLEAR(serving->entry);
    Py_CLEAR(serving->conn);
    Py_CLEAR(serving->inner);
    return 0;
}

/* What is to be awaited of an awaitable; the reference is taken over. */
static PyObject *
iterator_of(PyObject *awaitable)
{
    PyAsyncMethods *methods = awaitable ? Py_TYPE(awaitable)->tp_as_async : NULL;
    PyObject *iterator;

    if (!awaitable || PyCoro_CheckExact(awaitable)) {
        return awaitable;
    }
    if (!methods || !methods->am_await) {
        PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
                     Py_TYPE(awaitable)->tp_name);
        Py_DECREF(awaitable);
        return NULL;
    }
    iterator = methods->am_await(awaitable);
    Py_DECREF(awaitable);
    return iterator;
}

/* Begin with the handler; -1: an error is set. */
static int
begin(Serving *serving)
{
    const Runner *runner = serving->runner;
    PyObject *token = PyContextVar_Set(runner->handling, serving->conn);

    serving->stage = SERVES;
    if (!token) {
        return -1;
    }
    Py_DECREF(token);
    serving->inner = iterator_of(PyObject_CallOneArg(runner->call, serving->conn));
    return serving->inner ? 0 : -1;
}

static PySendResult
finish(Serving *serving, PyObject **result)
{
    serving->stage = IS_OVER;
    Serving_clear(serving);
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PySendResult
fail(Serving *serving, PyObject **result)
{
    serving->stage = IS_OVER;
    Serving_clear(serving);
    *result = NULL;
    return PYGEN_ERROR;
}

/* The handler's call has ended, by the error that is set if there is one: have the worker deal with it, which
   may ask for the error as one that is handled. */
static PySendResult
end(Serving *serving, PyObject **result)
{
    PyObject *kind, *error, *traceback, *before = NULL, *rest;

    PyErr_Fetch(&kind, &error, &traceback);
    if (kind) {
        PyErr_NormalizeException(&kind, &error, &traceback);
        if (traceback) {
            PyException_SetTraceback(error, traceback);
        }
        before = PyErr_GetHandledException();
        PyErr_SetHandledException(error);
    }
    Py_CLEAR(serving->inner);
    serving->stage = ENDS;
    rest = PyObject_CallFunctionObjArgs(serving->runner->ended, serving->entry, serving->conn,
                                        kind ? error : Py_None, NULL);
    if (kind) {
        PyErr_SetHandledException(before);
        Py_XDECREF(before);
    }
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    if (!rest) {
        return fail(serving, result);
    }
    if (rest == Py_None) {
        Py_DECREF(rest);
        return finish(serving, result);
    }
    serving->inner = rest;
    return PyIter_Send(rest, Py_None, result);
}

/* Go on with what a step of the inner coroutine has come to. */
static PySendResult
go_on(Serving *serving, PySendResult came, PyObject **result)
{
    if (came != PYGEN_NEXT && serving->stage == SERVES) {
        Py_CLEAR(*result);
        came = end(serving, result);
    }
    if (came == PYGEN_NEXT || serving->stage == IS_OVER) {
        return came;
    }
    Py_CLEAR(*result);
    return came == PYGEN_RETURN ? finish(serving, result) : fail(serving, result);
}

/* Whether it may be gone on with now; 0: an error is set. */
static int
may_run(const Serving *serving)
{
    if (serving->running) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    } else if (serving->stage == IS_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    } else {
        return 1;
    }
    return 0;
}

static PySendResult
Serving_am_send(Serving *serving, PyObject *value, PyObject **result)
{
    PySendResult came = PYGEN_ERROR;

    *result = NULL;
    if (!may_run(serving)) {
        return PYGEN_ERROR;
    }
    Py_INCREF(serving); /* what it calls may let go of it */
    serving->running = 1;
    if (serving->stage != NOT_BEGUN || begin(serving) == 0) {
        came = PyIter_Send(serving->inner, value, result);
    }
    came = go_on(serving, came, result);
    serving->running = 0;
    Py_DECREF(serving);
    return came;
}

/* What a method of Python's returns where a step has come to this. */
static PyObject *
as_called(PySendResult came, PyObject *result)
{
    if (came == PYGEN_RETURN) {
        Py_DECREF(result);
        PyErr_SetNone(PyExc_StopIteration);
        return NULL;
    }
    return came == PYGEN_NEXT ? result : NULL;
}

static PyObject *
Serving_send(Serving *serving, PyObject *value)
{
    PyObject *result;
    PySendResult came = Serving_am_send(serving, value, &result);

    return as_called(came, result);
}

static PyObject *
Serving_iternext(Serving *serving)
{
    return Serving_send(serving, Py_None);
}

/* Throw into the inner coroutine, if it can be. */
static PySendResult
throw_inside(Serving *serving, PyObject *const *args, Py_ssize_t given, PyObject **result)
{
    PyObject *method = serving->inner ? PyObject_GetAttrString(serving->inner, "throw") : NULL;

    if (!serving->inner || (!method && PyErr_ExceptionMatches(PyExc_AttributeError))) {
        PyErr_Clear();
        set_thrown(args, given);
        return PYGEN_ERROR;
    }
    *result = method ? PyObject_Vectorcall(method, args, (size_t)given, NULL) : NULL;
    Py_XDECREF(method);
    if (*result) {
        return PYGEN_NEXT;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyErr_Clear(); /* nobody asks what it returns */
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *
Serving_throw(Serving *serving, PyObject *const *args, Py_ssize_t given)
{
    PyObject *result = NULL;
    PySendResult came;

    if (given < 1 || given > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes 1 to 3 arguments");
        return NULL;
    }
    if (!may_run(serving)) {
        return NULL;
    }
    if (serving->stage == NOT_BEGUN) {
        set_thrown(args, given);
        fail(serving, &result);
        return NULL;
    }
    Py_INCREF(serving);
    serving->running = 1;
    came = go_on(serving, throw_inside(serving, args, given, &result), &result);
    serving->running = 0;
    Py_DECREF(serving);
    return as_called(came, result);
}

static PyObject *
Serving_close(Serving *serving, PyObject *Py_UNUSED(ignored))
{
    PyObject *closed = Py_NewRef(Py_None);

    if (serving->running) {
        Py_DECREF(closed);
        may_run(serving);
        return NULL;
    }
    if (serving->inner) {
        Py_SETREF(closed, PyObject_CallMethod(serving->inner, "close", NULL));
    }
    serving->stage = IS_OVER;
    Serving_clear(serving);
    return closed;
}

static int
Serving_traverse(Serving *serving, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(serving));
    Py_VISIT(serving->runner);
    Py_VISIT(serving->entry);
    Py_VISIT(serving->conn);
    Py_VISIT(serving->inner);
    return 0;
}

static void
Serving_dealloc(Serving *serving)
{
    PyTypeObject *type = Py_TYPE(serving);

    PyObject_GC_UnTrack(serving);
    Serving_clear(serving);
    Py_XDECREF(serving->runner);
    type->tp_free(serving);
    Py_DECREF(type);
}

/* What asyncio and others ask of a coroutine is the handler's, as far as there is one: its name, its frame. */
static PyObject *
Serving_getattro(Serving *serving, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr((PyObject *)serving, name);

    if (!found && PyErr_ExceptionMatches(PyExc_AttributeError) && serving->inner) {
        PyErr_Clear();
        found = PyObject_GetAttr(serving->inner, name);
    }
    return found;
}

static PyObject *
Serving_running(Serving *serving, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(serving->running);
}

static PyMethodDef serving_methods[] = {
    {"send", (PyCFunction)Serving_send, METH_O, "Go on, as a coroutine."},
    {"throw", (PyCFunction)(void (*)(void))Serving_throw, METH_FASTCALL, "Raise, where it waits."},
    {"close", (PyCFunction)Serving_close, METH_NOARGS, "Leave it, where it waits."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef serving_properties[] = {
    {"cr_running", (getter)Serving_running, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot serving_slots[] = {
    {Py_tp_dealloc, Serving_dealloc},
    {Py_tp_traverse, Serving_traverse},
    {Py_tp_clear, Serving_clear},
    {Py_tp_getattro, Serving_getattro},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, Serving_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, Serving_am_send},
    {Py_tp_methods, serving_methods},
    {Py_tp_getset, serving_properties},
    {Py_tp_doc, "The coroutine that serves one connection."},
    {0, NULL},
};

PyType_Spec serving_spec = {
    .name = "socketkeep._native._core.Serving",
    .basicsize = sizeof(Serving),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = serving_slots,
};

/* The runner. */

static PyObject *
Runner_serve(Runner *runner, PyObject *const *args, Py_ssize_t given)
{
    PyTypeObject *type = runner->state->serving;
    Serving *serving;

    if (given != 2) {
        return PyErr_Format(PyExc_TypeError, "serve() takes 2 arguments (%zd given)", given);
    }
    serving = (Serving *)type->tp_alloc(type, 0);
    if (serving) {
        serving->runner = (Runner *)Py_NewRef(runner);
        serving->entry = Py_NewRef(args[0]);
        serving->conn = Py_NewRef(args[1]);
    }
    return (PyObject *)serving;
}

static PyObject *
Runner_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *handling, *call, *ended;
    Runner *runner;

    if (!PyArg_ParseTuple(args, "O!OO:HandlerRunner", &PyContextVar_Type, &handling, &call, &ended)) {
        return NULL;
    }
    runner = (Runner *)type->tp_alloc(type, 0);
    if (runner) {
        runner->state = PyType_GetModuleState(type);
        runner->handling = Py_NewRef(handling);
        runner->call = Py_NewRef(call);
        runner->ended = Py_NewRef(ended);
    }
    return (PyObject *)runner;
}

static int
Runner_traverse(Runner *runner, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(runner));
    Py_VISIT(runner->handling);
    Py_VISIT(runner->call);
    Py_VISIT(runner->ended);
    return 0;
}

static int
Runner_clear(Runner *runner)
{
    Py_CLEAR(runner->handling);
    Py_CLEAR(runner->call);
    Py_CLEAR(runner->ended);
    return 0;
}

static void
Runner_dealloc(Runner *runner)
{
    PyTypeObject *type = Py_TYPE(runner);

    PyObject_GC_UnTrack(runner);
    Runner_clear(runner);
    type->tp_free(runner);
    Py_DECREF(type);
}

static PyMethodDef runner_methods[] = {
    {"serve", (PyCFunction)(void (*)(void))Runner_serve, METH_FASTCALL,
     "Return the coroutine that serves the connection of an entry."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot runner_slots[] = {
    {Py_tp_new, Runner_new},
    {Py_tp_dealloc, Runner_dealloc},
    {Py_tp_traverse, Runner_traverse},
    {Py_tp_clear, Runner_clear},
    {Py_tp_methods, runner_methods},
    {Py_tp_doc, "Its twin is `_worker._handler_runner.HandlerRunner`."},
    {0, NULL},
};

PyType_Spec runner_spec = {
    .name = "socketkeep._native._core.HandlerRunner",
    .basicsize = sizeof(Runner),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = runner_slots,
};
