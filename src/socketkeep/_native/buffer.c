/* The received bytes that a handler has not yet dealt with: the twin of `_stream/_buffer.py`.

   It owns one piece of memory a connection, which grows by a constant factor and is given back when
   nothing in it counts any more.  What was taken since the commit is retained by not being
   overwritten. */

#define _GNU_SOURCE

#include "core.h"

#include <string.h>
#include <structmember.h>

static size_t
unread(const Buffer *buffer)
{
    return buffer->end - buffer->pos;
}

/* Whether what was taken is still there to be replayed. */
static int
retains(const Buffer *buffer)
{
    return buffer->retain && !buffer->dropped;
}

/* Where that which still counts begins. */
static size_t
first(const Buffer *buffer)
{
    return retains(buffer) ? buffer->pos - buffer->taken : buffer->pos;
}

static void
give_back(Buffer *buffer)
{
    PyMem_Free(buffer->data);
    buffer->data = NULL;
    buffer->room = buffer->pos = buffer->end = buffer->scanned = 0;
}

void
buffer_tidy(Buffer *buffer)
{
    if (first(buffer) == buffer->end) {
        give_back(buffer);
    }
}

char *
buffer_prepare(Buffer *buffer, size_t size)
{
    size_t start = first(buffer), live = buffer->end - start, room;
    char *data;

    if (size <= buffer->room - buffer->end) {
        return buffer->data + buffer->end;
    }
    /* To move what counts to the front pays once that is no more than what is dropped by it. */
    if (start && live <= start && size <= buffer->room - live) {
        memmove(buffer->data, buffer->data + start, live);
    } else {
        room = buffer->room < 64 ? 64 : buffer->room;
        while (room - live < size) {
            if (room > (size_t)PY_SSIZE_T_MAX / 2) {
                PyErr_NoMemory();
                return NULL;
            }
            room *= 2;
        }
        data = PyMem_Malloc(room);
        if (!data) {
            PyErr_NoMemory();
            return NULL;
        }
        if (live) {
            memcpy(data, buffer->data + start, live);
        }
        PyMem_Free(buffer->data);
        buffer->data = data;
        buffer->room = room;
    }
    buffer->pos -= start;
    buffer->end -= start;
    buffer->scanned = buffer->scanned > start ? buffer->scanned - start : 0;
    return buffer->data + buffer->end;
}

void
buffer_add(Buffer *buffer, size_t size)
{
    if (unread(buffer)) {
        buffer->gathered = 1;
    } else {
        buffer->gathered = 0;
        buffer->scanned = 0;
    }
    if (!buffer->retain) {
        buffer->taken = 0;
    }
    buffer->end += size;
}

int
buffer_feed(Buffer *buffer, const char *data, size_t size)
{
    if (size) {
        char *place = buffer_prepare(buffer, size);

        if (!place) {
            return -1;
        }
        memcpy(place, data, size);
    }
    buffer_add(buffer, size);
    return 0;
}

/* Note that the next `size` bytes, which are unread, have been taken. */
static void
move_on(Buffer *buffer, size_t size)
{
    buffer->pos += size;
    buffer->taken += size;
    if (buffer->retain && buffer->taken > buffer->limit) {
        buffer->dropped = 1;
    }
    if (buffer->pos < buffer->end) {
        return;
    }
    if (!buffer->retain && buffer->gathered) {
        buffer->taken = 0;
    }
    if (!retains(buffer)) {
        give_back(buffer);
    }
}

int
buffer_pass_by(Buffer *buffer, const char *data, size_t size)
{
    if (buffer->retain && (buffer->dropped || buffer->taken + size > buffer->limit)) {
        buffer->dropped = 1; /* no replay will need it */
        buffer->taken += size;
        give_back(buffer);
        return 0;
    }
    if (buffer_feed(buffer, data, size) < 0) {
        return -1;
    }
    buffer->gathered = 0;
    move_on(buffer, size);
    return 0;
}

PyObject *
buffer_take(Buffer *buffer, size_t size)
{
    PyObject *part = PyBytes_FromStringAndSize(buffer->data + buffer->pos, (Py_ssize_t)size);

    if (part) {
        move_on(buffer, size);
    }
    return part;
}

void
buffer_commit(Buffer *buffer)
{
    buffer->taken = 0;
    buffer->dropped = 0;
    if (buffer->pos == buffer->end) {
        give_back(buffer); /* so that an idle connection holds no memory */
    }
}

int
buffer_untouched(const Buffer *buffer)
{
    return !buffer->taken && !buffer->dropped && buffer->pos == buffer->end;
}

static int
overflowed(const Buffer *buffer)
{
    return buffer->dropped || buffer->taken > buffer->limit;
}

/* Where the separator is among the unread bytes, -1 when it is not.  `remember`: look on from there
   the next time. */
static Py_ssize_t
look_for(Buffer *buffer, PyObject *separator, int remember)
{
    const char *wanted = PyBytes_AS_STRING(separator), *found;
    size_t size = (size_t)PyBytes_GET_SIZE(separator), start = buffer->pos;

    if (buffer->scanned > start && buffer->separator &&
        (buffer->separator == separator ||
         (PyBytes_GET_SIZE(buffer->separator) == (Py_ssize_t)size &&
          memcmp(PyBytes_AS_STRING(buffer->separator), wanted, size) == 0))) {
        start = buffer->scanned;
    }
    if (start > buffer->end || buffer->end - start < size) {
        found = NULL;
    } else if (size == 1) {
        found = start < buffer->end
                    ? memchr(buffer->data + start, wanted[0], buffer->end - start)
                    : NULL;
    } else {
        found = size ? memmem(buffer->data + start, buffer->end - start, wanted, size)
                     : buffer->data + start;
    }
    if (found) {
        return found - buffer->data - (Py_ssize_t)buffer->pos;
    }
    if (remember && buffer->end >= size) {
        Py_INCREF(separator);
        Py_XSETREF(buffer->separator, separator);
        buffer->scanned = buffer->end - size + 1;
    }
    return -1;
}

static int
is_separator(PyObject *separator)
{
    if (!PyBytes_Check(separator)) {
        PyErr_Format(PyExc_TypeError, "a separator is bytes, not %s", Py_TYPE(separator)->tp_name);
        return 0;
    }
    return 1;
}

/* The number in a Python object, which is none below `least`; -1 with an error set. */
static Py_ssize_t
number(PyObject *object, Py_ssize_t least)
{
    Py_ssize_t value = PyNumber_AsSsize_t(object, NULL);

    if (value < least) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "%zd bytes are too few", value);
        }
        return -1;
    }
    return value;
}

static int
arguments(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, wanted, given);
        return 0;
    }
    return 1;
}

Buffer *
buffer_of(PyTypeObject *type, int retain, Py_ssize_t limit)
{
    Buffer *buffer = (Buffer *)type->tp_alloc(type, 0);

    if (buffer) {
        buffer->retain = (char)retain;
        buffer->limit = limit < 0 ? 0 : (size_t)limit;
    }
    return buffer;
}

static PyObject *
Buffer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"retain", "replay_limit", NULL};
    int retain = 0;
    Py_ssize_t limit = 65536;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$pn:ReceiveBuffer", names, &retain, &limit)) {
        return NULL;
    }
    return (PyObject *)buffer_of(type, retain, limit);
}

static void
Buffer_dealloc(Buffer *buffer)
{
    PyTypeObject *type = Py_TYPE(buffer);

    PyMem_Free(buffer->data);
    Py_XDECREF(buffer->separator);
    type->tp_free(buffer);
    Py_DECREF(type);
}

static PyObject *
Buffer_feed(Buffer *buffer, PyObject *data)
{
    Py_buffer view;
    int failed;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    failed = buffer_feed(buffer, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Buffer_pass_by(Buffer *buffer, PyObject *data)
{
    Py_buffer view;
    int failed;

    if (unread(buffer)) {
        PyErr_SetString(PyExc_ValueError, "there are unread bytes in front of it");
        return NULL;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    failed = buffer_pass_by(buffer, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Buffer_take(Buffer *buffer, PyObject *object)
{
    Py_ssize_t most = number(object, 0);
    size_t size = unread(buffer);

    if (most < 0) {
        return NULL;
    }
    if (!size) {
        Py_RETURN_NONE;
    }
    return buffer_take(buffer, size > (size_t)most ? (size_t)most : size);
}

static PyObject *
Buffer_take_exactly(Buffer *buffer, PyObject *object)
{
    Py_ssize_t count = number(object, 0);

    if (count < 0) {
        return NULL;
    }
    if ((size_t)count > unread(buffer)) {
        Py_RETURN_NONE;
    }
    return buffer_take(buffer, (size_t)count);
}

static PyObject *
Buffer_find(Buffer *buffer, PyObject *separator)
{
    if (!is_separator(separator)) {
        return NULL;
    }
    return PyLong_FromSsize_t(look_for(buffer, separator, 1));
}

/* New `bytes`, of the first `kept` of the `size` bytes that it takes. */
static PyObject *
take_part(Buffer *buffer, size_t kept, size_t size)
{
    PyObject *part = PyBytes_FromStringAndSize(buffer->data + buffer->pos, (Py_ssize_t)kept);

    if (part) {
        move_on(buffer, size);
    }
    return part;
}

static PyObject *
Buffer_take_until(Buffer *buffer, PyObject *const *args, Py_ssize_t given)
{
    Py_ssize_t bound, keep, at, size;

    if (!arguments("take_until", given, 3) || !is_separator(args[0]) ||
        (bound = number(args[1], 0)) < 0 || (keep = number(args[2], 0)) < 0) {
        return NULL;
    }
    size = PyBytes_GET_SIZE(args[0]);
    at = look_for(buffer, args[0], 0);
    if (at < 0 || at > bound) {
        Py_RETURN_NONE;
    }
    return take_part(buffer, (size_t)(at + (keep < size ? keep : size)), (size_t)(at + size));
}

PyObject *
buffer_take_line(Buffer *buffer, int keepends, size_t bound)
{
    PyObject *newline = PyBytes_FromStringAndSize("\n", 1); /* of one byte there is one object */
    Py_ssize_t at;
    const char *start;
    size_t kept;

    if (!newline) {
        return NULL;
    }
    at = look_for(buffer, newline, 1);
    Py_DECREF(newline);
    if (at < 0 || (size_t)at > bound) {
        return NULL;
    }
    start = buffer->data + buffer->pos;
    kept = (size_t)(keepends ? at + 1 : at && start[at - 1] == '\r' ? at - 1 : at);
    return take_part(buffer, kept, (size_t)at + 1);
}

static PyObject *
Buffer_take_line(Buffer *buffer, PyObject *const *args, Py_ssize_t given)
{
    int keepends;
    Py_ssize_t bound;
    PyObject *line;

    if (!arguments("take_line", given, 2) || (keepends = PyObject_IsTrue(args[0])) < 0 ||
        (bound = number(args[1], 0)) < 0) {
        return NULL;
    }
    line = buffer_take_line(buffer, keepends, (size_t)bound);
    if (!line && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return line;
}

static PyObject *
Buffer_take_found(Buffer *buffer, PyObject *const *args, Py_ssize_t given)
{
    Py_ssize_t count, separator;

    if (!arguments("take_found", given, 2) || (count = number(args[0], 0)) < 0 ||
        (separator = number(args[1], 0)) < 0) {
        return NULL;
    }
    if ((size_t)count > unread(buffer) || (size_t)separator > unread(buffer) - (size_t)count) {
        PyErr_SetString(PyExc_ValueError, "there are not so many bytes");
        return NULL;
    }
    return take_part(buffer, (size_t)count, (size_t)count + (size_t)separator);
}

static PyObject *
Buffer_peek(Buffer *buffer, PyObject *object)
{
    Py_ssize_t most = number(object, 0);
    size_t size = unread(buffer);

    if (most < 0) {
        return NULL;
    }
    size = size > (size_t)most ? (size_t)most : size;
    return PyBytes_FromStringAndSize(size ? buffer->data + buffer->pos : NULL, (Py_ssize_t)size);
}

static PyObject *
Buffer_byte_at(Buffer *buffer, PyObject *object)
{
    Py_ssize_t index = number(object, 0);

    if (index < 0) {
        return NULL;
    }
    if ((size_t)index >= unread(buffer)) {
        PyErr_SetString(PyExc_IndexError, "there are not so many bytes");
        return NULL;
    }
    return PyLong_FromLong((unsigned char)buffer->data[buffer->pos + (size_t)index]);
}

static PyObject *
Buffer_commit(Buffer *buffer, PyObject *Py_UNUSED(ignored))
{
    buffer_commit(buffer);
    return PyLong_FromLong(0);
}

static PyObject *
Buffer_replay(Buffer *buffer, PyObject *Py_UNUSED(ignored))
{
    size_t start;

    if (overflowed(buffer) || (!buffer->retain && buffer->taken)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "bytes taken since the last commit were not retained");
        return NULL;
    }
    start = first(buffer);
    return PyBytes_FromStringAndSize(buffer->data ? buffer->data + start : NULL,
                                     (Py_ssize_t)(buffer->end - start));
}

static PyObject *
Buffer_sizeof(Buffer *buffer, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(sizeof(Buffer) + buffer->room);
}

static PyObject *
Buffer_size(Buffer *buffer, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(unread(buffer));
}

static PyObject *
Buffer_unread(Buffer *buffer, void *Py_UNUSED(closure))
{
    return PyBytes_FromStringAndSize(buffer->data ? buffer->data + buffer->pos : NULL,
                                     (Py_ssize_t)unread(buffer));
}

static PyObject *
Buffer_overflowed(Buffer *buffer, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(overflowed(buffer));
}

static PyObject *
Buffer_untouched(Buffer *buffer, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(buffer_untouched(buffer));
}

static PyMethodDef methods[] = {
    {"feed", (PyCFunction)Buffer_feed, METH_O, "Add what was received."},
    {"pass_by", (PyCFunction)Buffer_pass_by, METH_O,
     "Add what was received, and take it: all of it, when nothing is unread."},
    {"take", (PyCFunction)Buffer_take, METH_O,
     "Take what is there, up to so many bytes; None when nothing is."},
    {"take_exactly", (PyCFunction)Buffer_take_exactly, METH_O,
     "Take so many bytes; None, and nothing is taken, when there are fewer."},
    {"find", (PyCFunction)Buffer_find, METH_O,
     "Return how many unread bytes stand before the separator, -1 when it is not there."},
    {"take_until", (PyCFunction)(void (*)(void))Buffer_take_until, METH_FASTCALL,
     "Take the bytes before a separator, within a bound, and some of it; None when it is not there."},
    {"take_line", (PyCFunction)(void (*)(void))Buffer_take_line, METH_FASTCALL,
     "Take a line, with its end or without, within a bound; None when there is none."},
    {"take_found", (PyCFunction)(void (*)(void))Buffer_take_found, METH_FASTCALL,
     "Take the bytes before a separator that was found, and drop the separator."},
    {"peek", (PyCFunction)Buffer_peek, METH_O,
     "Return the first unread bytes, up to so many, and take none."},
    {"byte_at", (PyCFunction)Buffer_byte_at, METH_O,
     "Return the unread byte at an index, which there must be."},
    {"commit", (PyCFunction)Buffer_commit, METH_NOARGS,
     "Drop what is retained; return how many bytes that has taken from the kernel, which is 0."},
    {"replay", (PyCFunction)Buffer_replay, METH_NOARGS,
     "Return all since the last commit; RuntimeError when some of it was not retained."},
    {"__sizeof__", (PyCFunction)Buffer_sizeof, METH_NOARGS, "Return its size in memory."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"size", (getter)Buffer_size, NULL, "The number of unread bytes.", NULL},
    {"unread", (getter)Buffer_unread, NULL, "A copy of the unread bytes.", NULL},
    {"overflowed", (getter)Buffer_overflowed, NULL,
     "More was taken since the last commit than is retained.", NULL},
    {"untouched", (getter)Buffer_untouched, NULL,
     "Nothing was taken since the last commit, and nothing is unread.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Buffer_new},
    {Py_tp_dealloc, Buffer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "The twin of `_stream._buffer.ReceiveBuffer`."},
    {0, NULL},
};

PyType_Spec buffer_spec = {
    .name = "socketkeep._native._core.ReceiveBuffer",
    .basicsize = sizeof(Buffer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
