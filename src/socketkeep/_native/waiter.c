/* What a receiving task awaits: the twin of `_stream/_async_waiter.Waiter`.

   It owns references to the loop and, while a task waits, to what resumes that, with its context. */

#include "core.h"

#include <structmember.h>

int
waiter_resume(Waiter *waiter, PyObject *outcome)
{
    PyObject *resume = waiter->resume, *context = waiter->context, *result = NULL;

    /* The task is let go of first: resumed, it may wait again. */
    waiter->resume = NULL;
    waiter->context = NULL;
    waiter->pending = 0;
    if (resume && context && PyContext_Enter(context) == 0) {
        result = PyObject_CallOneArg(resume, outcome);
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(result);
        }
    } else if (!resume) {
        return 0;
    }
    Py_DECREF(resume);
    Py_XDECREF(context);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Have the loop resume the task in its next turn. */
static int
resume_soon(Waiter *waiter, PyObject *outcome)
{
    PyObject *resume = waiter->resume, *context = waiter->context, *call_soon, *names, *handle;

    waiter->resume = NULL;
    waiter->context = NULL;
    waiter->pending = 0;
    if (!resume) {
        return 0;
    }
    call_soon = PyObject_GetAttrString(waiter->loop, "call_soon");
    names = call_soon ? Py_BuildValue("(s)", "context") : NULL;
    handle = NULL;
    if (names) {
        PyObject *args[] = {resume, outcome, context};

        handle = PyObject_Vectorcall(call_soon, args, 2, names);
    }
    Py_DECREF(resume);
    Py_XDECREF(context);
    Py_XDECREF(call_soon);
    Py_XDECREF(names);
    Py_XDECREF(handle);
    return handle ? 0 : -1;
}

/* How a wait that is pending ends: with `object`, the number of what came. */
static PyObject *
end_with(Waiter *waiter, PyObject *object, int (*resume)(Waiter *, PyObject *))
{
    int came = (int)PyLong_AsLong(object);

    if (came == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!waiter->pending) {
        Py_RETURN_NONE;
    }
    waiter->came = came;
    return core_done(resume(waiter, (PyObject *)waiter));
}

static PyObject *
Waiter_end(Waiter *waiter, PyObject *object)
{
    return end_with(waiter, object, waiter_resume);
}

static PyObject *
Waiter_end_soon(Waiter *waiter, PyObject *object)
{
    return end_with(waiter, object, resume_soon);
}

static PyObject *
Waiter_forget(Waiter *waiter, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(waiter->resume);
    Py_CLEAR(waiter->context);
    Py_RETURN_NONE;
}

/* Whether the names of the arguments are those of a callback and its context.  Tasks give the same tuple each
   time. */
static int
is_callback(Waiter *waiter, Py_ssize_t given, PyObject *names)
{
    State *state = PyType_GetModuleState(Py_TYPE(waiter));

    if (given != 1 || !names) {
        return 0;
    }
    if (names == state->callback_names) {
        return 1;
    }
    if (PyTuple_GET_SIZE(names) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "context") != 0) {
        return 0;
    }
    Py_XSETREF(state->callback_names, Py_NewRef(names));
    return 1;
}

static PyObject *
Waiter_add_done_callback(Waiter *waiter, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    if (!is_callback(waiter, given, names)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback() takes a callback, and its context");
        return NULL;
    }
    Py_INCREF(args[0]);
    Py_XSETREF(waiter->resume, args[0]);
    Py_INCREF(args[1]);
    Py_XSETREF(waiter->context, args[1]);
    Py_RETURN_NONE;
}

static PyObject *
Waiter_cancel(Waiter *waiter, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"msg", NULL};
    PyObject *text = Py_None, *module, *kind, *cancelled;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:cancel", names, &text)) {
        return NULL;
    }
    if (!waiter->pending) {
        Py_RETURN_FALSE;
    }
    module = PyImport_ImportModule("asyncio.exceptions");
    kind = module ? PyObject_GetAttrString(module, "CancelledError") : NULL;
    Py_XDECREF(module);
    if (!kind) {
        return NULL;
    }
    cancelled = text == Py_None ? PyObject_CallNoArgs(kind) : PyObject_CallOneArg(kind, text);
    Py_DECREF(kind);
    if (!cancelled) {
        return NULL;
    }
    Py_XSETREF(waiter->cancelled, cancelled);
    if (resume_soon(waiter, (PyObject *)waiter) < 0) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static PyObject *
Waiter_done(Waiter *waiter, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(!waiter->pending);
}

static PyObject *
Waiter_result(Waiter *waiter, PyObject *Py_UNUSED(ignored))
{
    PyObject *cancelled = waiter->cancelled;

    if (!cancelled) {
        Py_RETURN_NONE;
    }
    waiter->cancelled = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(cancelled), cancelled);
    Py_DECREF(cancelled);
    return NULL;
}

Waiter *
waiter_of(PyTypeObject *type, PyObject *loop)
{
    Waiter *waiter = (Waiter *)type->tp_alloc(type, 0);

    if (waiter) {
        waiter->loop = Py_NewRef(loop);
    }
    return waiter;
}

static PyObject *
Waiter_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *loop;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Waiter() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:Waiter", &loop)) {
        return NULL;
    }
    return (PyObject *)waiter_of(type, loop);
}

static int
Waiter_traverse(Waiter *waiter, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(waiter));
    Py_VISIT(waiter->loop);
    Py_VISIT(waiter->resume);
    Py_VISIT(waiter->context);
    Py_VISIT(waiter->cancelled);
    return 0;
}

static int
Waiter_clear(Waiter *waiter)
{
    Py_CLEAR(waiter->loop);
    Py_CLEAR(waiter->resume);
    Py_CLEAR(waiter->context);
    Py_CLEAR(waiter->cancelled);
    return 0;
}

static void
Waiter_dealloc(Waiter *waiter)
{
    PyTypeObject *type = Py_TYPE(waiter);

    PyObject_GC_UnTrack(waiter);
    Waiter_clear(waiter);
    type->tp_free(waiter);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"end", (PyCFunction)Waiter_end, METH_O, "Resume the task now, if it waits."},
    {"end_soon", (PyCFunction)Waiter_end_soon, METH_O,
     "Resume the task in the loop's next turn, if it waits."},
    {"forget", (PyCFunction)Waiter_forget, METH_NOARGS, "Let go of the task."},
    {"add_done_callback", (PyCFunction)(void (*)(void))Waiter_add_done_callback,
     METH_FASTCALL | METH_KEYWORDS, "Take what resumes the task."},
    {"cancel", (PyCFunction)(void (*)(void))Waiter_cancel, METH_VARARGS | METH_KEYWORDS,
     "End the wait by a cancellation; return whether there was a wait to end."},
    {"done", (PyCFunction)Waiter_done, METH_NOARGS, "Whether the wait has ended."},
    {"result", (PyCFunction)Waiter_result, METH_NOARGS, "Raise the cancellation, if there is one."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Waiter, blocking), 0, NULL},
    {"_loop", T_OBJECT, offsetof(Waiter, loop), 0, NULL},
    {"pending", T_BOOL, offsetof(Waiter, pending), 0, "A task waits."},
    {"came", T_INT, offsetof(Waiter, came), 0, "What has ended the wait."},
    {"watching", T_BOOL, offsetof(Waiter, watching), 0, "The reader is registered."},
    {"ordered", T_BOOL, offsetof(Waiter, ordered), 0, "There is an order of the server's, or a rate."},
    {"claimed", T_BOOL, offsetof(Waiter, claimed), 0, "A task receives."},
    {"tended", T_BOOL, offsetof(Waiter, tended), 0, "`since` is looked at."},
    {"since", T_DOUBLE, offsetof(Waiter, since), 0, "When the wait has begun."},
    {"unwaited", T_INT, offsetof(Waiter, unwaited), 0, "Receives that did not wait."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Waiter_new},
    {Py_tp_dealloc, Waiter_dealloc},
    {Py_tp_traverse, Waiter_traverse},
    {Py_tp_clear, Waiter_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "The twin of `_stream._async_waiter.Waiter`."},
    {0, NULL},
};

PyType_Spec waiter_spec = {
    .name = "socketkeep._native._core.Waiter",
    .basicsize = sizeof(Waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
