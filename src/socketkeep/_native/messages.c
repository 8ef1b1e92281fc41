/* Taking a message from a connection's buffer, as `_stream/_framing.py` does.

   A taker of lines owns its buffer; any other taker is a function of Python's. */

#include "core.h"

/* A call of it is one of `take_line` there. */
typedef struct {
    PyObject_HEAD
    Buffer *buffer;
    PyObject *slow;
    State *state;
    int keepends;
} LineTaker;

/* NULL without an error: no whole line is there; `*refused`: nor may one come. */
static PyObject *
next_line(LineTaker *taker, Py_ssize_t bound, int *refused)
{
    Buffer *buffer = taker->buffer;
    PyObject *line = buffer_take_line(buffer, taker->keepends, (size_t)bound);

    *refused = !line && !PyErr_Occurred() && buffer->end - buffer->pos > (size_t)bound;
    return line;
}

static PyObject *
LineTaker_call(LineTaker *taker, PyObject *args, PyObject *keywords)
{
    PyObject *line;
    Py_ssize_t bound;
    int refused;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "a taker of lines takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "n", &bound)) {
        return NULL;
    }
    line = next_line(taker, bound < 0 ? 0 : bound, &refused);
    if (refused) {
        return PyObject_Call(taker->slow, args, NULL);
    }
    if (!line && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return line;
}

static PyObject *
LineTaker_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    State *state = PyType_GetModuleState(type);
    PyObject *buffer, *slow;
    LineTaker *taker;
    int keepends;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "LineTaker() takes no keyword arguments");
        return NULL;
    }
    if (!state || !PyArg_ParseTuple(args, "O!pO:LineTaker", state->buffer, &buffer, &keepends, &slow)) {
        return NULL;
    }
    taker = (LineTaker *)type->tp_alloc(type, 0);
    if (taker) {
        taker->buffer = (Buffer *)Py_NewRef(buffer);
        taker->slow = Py_NewRef(slow);
        taker->keepends = keepends;
        taker->state = state;
    }
    return (PyObject *)taker;
}

static int
LineTaker_traverse(LineTaker *taker, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(taker));
    Py_VISIT(taker->buffer);
    Py_VISIT(taker->slow);
    return 0;
}

static int
LineTaker_clear(LineTaker *taker)
{
    Py_CLEAR(taker->slow); /* not the buffer, which refers to nothing, and is looked into */
    return 0;
}

static void
LineTaker_dealloc(LineTaker *taker)
{
    PyTypeObject *type = Py_TYPE(taker);

    PyObject_GC_UnTrack(taker);
    LineTaker_clear(taker);
    Py_XDECREF(taker->buffer);
    type->tp_free(taker);
    Py_DECREF(type);
}

static PyType_Slot line_taker_slots[] = {
    {Py_tp_new, LineTaker_new},
    {Py_tp_call, LineTaker_call},
    {Py_tp_dealloc, LineTaker_dealloc},
    {Py_tp_traverse, LineTaker_traverse},
    {Py_tp_clear, LineTaker_clear},
    {Py_tp_doc, "Takes lines from a buffer; see `_stream._framing.line_taker`."},
    {0, NULL},
};

PyType_Spec line_taker_spec = {
    .name = "socketkeep._native._core.LineTaker",
    .basicsize = sizeof(LineTaker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = line_taker_slots,
};

int
message_take(State *state, Buffer *buffer, PyObject *taker, PyObject *most, Py_ssize_t bound,
             PyObject **data)
{
    int refused = 0;

    if (Py_TYPE(taker) == state->line_taker && ((LineTaker *)taker)->buffer == buffer) {
        *data = next_line((LineTaker *)taker, bound, &refused);
        if (refused) {
            return REFUSED;
        }
    } else {
        *data = PyObject_CallOneArg(taker, most);
        if (*data == Py_None) {
            Py_CLEAR(*data);
        }
    }
    if (*data) {
        return TAKEN;
    }
    if (!PyErr_Occurred()) {
        return NOTHING;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return RAISED;
    }
    PyErr_Clear();
    return REFUSED;
}
