/* Where the committed states of one connection are put, in the scoreboard's memory: the twin of
   `StatePlace` of `_wire/_shelves.py`, which says how states lie there.

   It owns a view of that memory, which keeps it in its place.  A state is written whole before the word of the
   row names it, so that who dies in between has left the earlier one. */

#include "core.h"

#include <string.h>

/* Of `_wire/_shelves.py`. */
enum { SMALL = 512, OFFSET_BITS = 40 };

static const uint64_t OFFSET = ((uint64_t)1 << OFFSET_BITS) - 1;

/* `STATE` of `_stream/_record.py`. */
enum { STATE_WORD = 14 };

/* What stands for no state behind a record. */
static const char NO_STATE[] = "\xc0";

typedef struct {
    PyObject_HEAD
    Py_buffer map;
    uint64_t *row; /* in the map */
    uint64_t small; /* where the next small state goes, and the one after that */
    uint64_t other_small;
    uint64_t large;
    uint64_t other_large;
} Shelf;

static uint64_t
next_of(uint64_t *one, uint64_t *other)
{
    uint64_t place = *one;

    *one = *other;
    *other = place;
    return place;
}

static void
name(const Shelf *shelf, uint64_t word)
{
    __atomic_store_n(&shelf->row[STATE_WORD], word, __ATOMIC_RELEASE);
}

/* Put a state behind a record, either of which may be empty; -1: there is no room, and an error is set. */
static int
put(Shelf *shelf, const char *front, size_t front_size, const char *state, size_t size)
{
    uint64_t at;
    char *place;

    if (front_size + size > STATE_LIMIT) {
        PyErr_SetString(PyExc_ValueError, "a state and its record have 65536 bytes at most");
        return -1;
    }
    at = front_size + size <= SMALL ? next_of(&shelf->small, &shelf->other_small)
                                    : next_of(&shelf->large, &shelf->other_large);
    place = (char *)shelf->map.buf + at;
    memcpy(place, front, front_size);
    memcpy(place + front_size, state, size);
    name(shelf, (uint64_t)(size + 1) << OFFSET_BITS | (at + front_size));
    return 0;
}

int
shelf_put(PyObject *object, PyObject *state)
{
    Shelf *shelf = (Shelf *)object;

    if (state == Py_None) {
        name(shelf, 0);
        return 0;
    }
    return put(shelf, "", 0, PyBytes_AS_STRING(state), (size_t)PyBytes_GET_SIZE(state));
}

static PyObject *
Shelf_put(Shelf *shelf, PyObject *args)
{
    PyObject *state, *front = NULL;
    const char *before, *data = NO_STATE;
    Py_ssize_t before_size, size = sizeof NO_STATE - 1;

    if (!PyArg_ParseTuple(args, "O|O!:put", &state, &PyBytes_Type, &front)) {
        return NULL;
    }
    if (state != Py_None && !PyBytes_Check(state)) {
        PyErr_Format(PyExc_TypeError, "a state is bytes or None, not %s", Py_TYPE(state)->tp_name);
        return NULL;
    }
    before = front ? PyBytes_AS_STRING(front) : "";
    before_size = front ? PyBytes_GET_SIZE(front) : 0;
    if (state == Py_None && !before_size) {
        return core_done(shelf_put((PyObject *)shelf, state));
    }
    if (state != Py_None) {
        data = PyBytes_AS_STRING(state);
        size = PyBytes_GET_SIZE(state);
    }
    return core_done(put(shelf, before, (size_t)before_size, data, (size_t)size));
}

/* Whether `size` bytes from there on are in the map. */
static int
is_in(const Py_buffer *map, unsigned long long at, unsigned long long size)
{
    return at <= (unsigned long long)map->len && size <= (unsigned long long)map->len - at;
}

/* Find the row's words in the map; NULL: an error is set. */
static uint64_t *
row_in(const Py_buffer *map, PyObject *row)
{
    uintptr_t start = (uintptr_t)map->buf, at;
    Py_buffer view;
    int fits;

    if (PyObject_GetBuffer(row, &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    at = (uintptr_t)view.buf;
    fits = view.len >= WORDS * (Py_ssize_t)sizeof(uint64_t) && at % sizeof(uint64_t) == 0 && at >= start &&
           is_in(map, at - start, (unsigned long long)view.len);
    PyBuffer_Release(&view);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the row is not in the memory of the states");
        return NULL;
    }
    return (uint64_t *)at;
}

static PyObject *
Shelf_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *map, *row;
    unsigned long long small, large, counts;
    Shelf *shelf;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "StatePlace() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOKK:StatePlace", &map, &row, &small, &large)) {
        return NULL;
    }
    shelf = (Shelf *)type->tp_alloc(type, 0);
    if (!shelf) {
        return NULL;
    }
    if (PyObject_GetBuffer(map, &shelf->map, PyBUF_WRITABLE) < 0 || !(shelf->row = row_in(&shelf->map, row))) {
        Py_DECREF(shelf);
        return NULL;
    }
    if (!is_in(&shelf->map, small, 2 * SMALL) || !is_in(&shelf->map, large, 2 * STATE_LIMIT)) {
        PyErr_SetString(PyExc_ValueError, "there is no room for the states");
        Py_DECREF(shelf);
        return NULL;
    }
    counts = shelf->row[STATE_WORD] & OFFSET;
    /* By turns: the one that is next is never the one that counts. */
    shelf->small = small;
    shelf->other_small = small + SMALL;
    shelf->large = large;
    shelf->other_large = large + STATE_LIMIT;
    if (counts >= small && counts < small + SMALL) {
        next_of(&shelf->small, &shelf->other_small);
    } else if (counts >= large && counts < large + STATE_LIMIT) {
        next_of(&shelf->large, &shelf->other_large);
    }
    return (PyObject *)shelf;
}

static void
Shelf_dealloc(Shelf *shelf)
{
    PyTypeObject *type = Py_TYPE(shelf);

    if (shelf->map.obj) {
        PyBuffer_Release(&shelf->map);
    }
    type->tp_free(shelf);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"put", (PyCFunction)Shelf_put, METH_VARARGS,
     "Replace the state, and the record of a reply in front of it, at once and as a whole."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Shelf_new},
    {Py_tp_dealloc, Shelf_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The twin of `_wire._shelves.StatePlace`."},
    {0, NULL},
};

PyType_Spec shelf_spec = {
    .name = "socketkeep._native._core.StatePlace",
    .basicsize = sizeof(Shelf),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
