/* What a connection's handler has done since its last commit, and the record of it in shared memory:
   the twin of `_stream/_ledger.py`.

   It owns the memory that has the record's words, or a record that is no memory.  Where the words are those of
   a scoreboard's row the ledger is the record itself, and has them as its items.  Each step that makes more uncertain is written before it is done.
   A word is stored as one plain store, which another process sees whole; the interpreter's lock is
   held throughout, so that no thread comes between a step and its word. */

#include "core.h"

#include <structmember.h>

/* `Status`, and AGAIN, of `_stream/_record.py`. */
enum { CLEAN = 0, READ = 1, SENT = 2, BOUND = 3, AGAIN = 8 };

/* A record that nobody else reads, of a connection without a server. */
int
ledger_set_item(Ledger *ledger, int word, uint64_t value)
{
    PyObject *index, *number;
    int failed;

    index = PyLong_FromLong(word);
    number = PyLong_FromUnsignedLongLong(value);
    failed = !index || !number || PyObject_SetItem(ledger->record, index, number) < 0;
    Py_XDECREF(index);
    Py_XDECREF(number);
    return failed ? -1 : 0;
}

int
ledger_word(Ledger *ledger, int index, uint64_t *word)
{
    PyObject *number;

    if (ledger->words) {
        *word = ledger->words[index];
        return 0;
    }
    number = PySequence_GetItem(ledger->record, index);
    if (!number) {
        return -1;
    }
    *word = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return *word == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

int
ledger_active(Ledger *ledger)
{
    return ledger_store(ledger, ACTIVE_AT, core_now_ns());
}

int
ledger_count(Ledger *ledger, int word, uint64_t count)
{
    if (ledger->words) {
        volatile uint64_t *words = ledger->words;

        words[word] = count;
        words[ACTIVE_AT] = core_now_ns();
        return 0;
    }
    return ledger_set_item(ledger, word, count) < 0 ? -1 : ledger_active(ledger);
}

static unsigned
status(const Ledger *ledger)
{
    unsigned plain;

    if (ledger->bound) {
        return BOUND;
    }
    plain = ledger->sent || ledger->pushes ? SENT : ledger->read ? READ : CLEAN;
    return ledger->again ? plain | AGAIN : plain;
}

/* To store an item of a record that is no memory may run other code, which may push: it is looked at
   again afterwards. */
static int
show(Ledger *ledger)
{
    unsigned shown;

    do {
        shown = status(ledger);
        if (ledger_store(ledger, STATUS, shown) < 0) {
            return -1;
        }
    } while (shown != status(ledger));
    return 0;
}

int
ledger_reading(Ledger *ledger)
{
    ledger->read = 1;
    return ledger->sent ? 0 : show(ledger);
}

int
ledger_read_nothing(Ledger *ledger)
{
    ledger->read = ledger->disputed;
    return ledger->sent ? 0 : show(ledger);
}

int
ledger_sending(Ledger *ledger)
{
    ledger->sent = 1;
    return show(ledger);
}

int
ledger_commit(Ledger *ledger, int unread, long long left_kernel)
{
    if (ledger->disputed) {
        ledger->doubtful -= left_kernel;
        ledger->disputed = ledger->doubtful > 0;
    }
    if (left_kernel || !ledger->disputed) {
        ledger->again = 0; /* a commit of nothing is none of the message of the death before */
    }
    ledger->sent = 0;
    ledger->read = unread || ledger->disputed;
    return show(ledger);
}

/* Have the record be this one: memory of 64-bit words, another ledger's, or anything that has them as items. */
static int
use_record(Ledger *ledger, PyObject *record)
{
    PyObject *memory = NULL;
    uint64_t *words = NULL;

    if (record == ledger->record || record == (PyObject *)ledger) {
        return 0;
    }
    if (Py_IS_TYPE(record, Py_TYPE(ledger)) && !((Ledger *)record)->record) {
        memory = Py_NewRef(((Ledger *)record)->memory);
        words = ((Ledger *)record)->words;
    } else if (PyObject_CheckBuffer(record)) {
        const Py_buffer *view;

        memory = PyMemoryView_FromObject(record);
        if (!memory) {
            return -1;
        }
        view = PyMemoryView_GET_BUFFER(memory);
        if (view->readonly || view->len < WORDS * (Py_ssize_t)sizeof(uint64_t) ||
            (uintptr_t)view->buf % sizeof(uint64_t)) {
            Py_DECREF(memory);
            PyErr_SetString(PyExc_ValueError, "a record has 16 words of 64 bits, to be written");
            return -1;
        }
        words = view->buf;
    }
    ledger->words = words;
    Py_XSETREF(ledger->memory, memory);
    Py_XSETREF(ledger->record, Py_NewRef(record));
    return 0;
}

PyObject *
ledger_record(const Ledger *ledger)
{
    return Py_NewRef(ledger->record ? ledger->record : (PyObject *)ledger);
}

void
ledger_use(PyObject *given, uint64_t *words)
{
    ((Ledger *)given)->words = words;
}

Ledger *
ledger_of(PyTypeObject *type, PyObject *record)
{
    Ledger *ledger = (Ledger *)type->tp_alloc(type, 0);

    if (ledger && use_record(ledger, record) < 0) {
        Py_DECREF(ledger);
        return NULL;
    }
    return ledger;
}

Ledger *
ledger_at(PyTypeObject *type, PyObject *memory, uint64_t *words)
{
    Ledger *ledger = (Ledger *)type->tp_alloc(type, 0);

    if (ledger) {
        ledger->memory = Py_NewRef(memory);
        ledger->words = words;
    }
    return ledger;
}

static PyObject *
Ledger_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"record", NULL};
    PyObject *record;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Ledger", names, &record)) {
        return NULL;
    }
    return (PyObject *)ledger_of(type, record);
}

static void
Ledger_dealloc(Ledger *ledger)
{
    PyTypeObject *type = Py_TYPE(ledger);

    Py_XDECREF(ledger->memory);
    Py_XDECREF(ledger->record);
    type->tp_free(ledger);
    Py_DECREF(type);
}

static PyObject *
Ledger_show(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    return core_done(show(ledger));
}

static PyObject *
Ledger_reading(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    return core_done(ledger_reading(ledger));
}

static PyObject *
Ledger_read_nothing(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    return core_done(ledger_read_nothing(ledger));
}

static PyObject *
Ledger_sending(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    return core_done(ledger_sending(ledger));
}

static PyObject *
Ledger_push_begins(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    ledger->pushes++;
    return core_done(show(ledger));
}

static PyObject *
Ledger_push_ends(Ledger *ledger, PyObject *Py_UNUSED(ignored))
{
    if (!ledger->pushes) {
        Py_RETURN_NONE; /* in a child that was forked meanwhile */
    }
    ledger->pushes--;
    return core_done(show(ledger));
}

static PyObject *
Ledger_dispute(Ledger *ledger, PyObject *doubtful)
{
    long long count = PyLong_AsLongLong(doubtful);

    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    ledger->disputed = 1;
    ledger->doubtful = count;
    Py_RETURN_NONE;
}

static PyObject *
Ledger_commit(Ledger *ledger, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"unread", "left_kernel", NULL};
    int unread = -1;
    long long left_kernel = 0;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$pL:commit", names, &unread, &left_kernel)) {
        return NULL;
    }
    if (unread < 0) {
        PyErr_SetString(PyExc_TypeError, "commit() needs to be told whether bytes are unread");
        return NULL;
    }
    return core_done(ledger_commit(ledger, unread, left_kernel));
}

static PyObject *
Ledger_status(Ledger *ledger, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(status(ledger));
}

static PyObject *
Ledger_record(Ledger *ledger, void *Py_UNUSED(closure))
{
    return ledger_record(ledger);
}

static int
Ledger_set_record(Ledger *ledger, PyObject *record, void *Py_UNUSED(closure))
{
    if (!record) {
        PyErr_SetString(PyExc_AttributeError, "a ledger has a record");
        return -1;
    }
    return use_record(ledger, record);
}

/* Read which word is asked for; -1: there is none such, and an error is set. */
static int
word_at(PyObject *index)
{
    Py_ssize_t word = PyNumber_AsSsize_t(index, PyExc_IndexError);

    if (word < 0 || word >= WORDS) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_IndexError, "a record has 16 words");
        }
        return -1;
    }
    return (int)word;
}

static PyObject *
Ledger_item(Ledger *ledger, PyObject *index)
{
    int word = word_at(index);
    uint64_t value;

    return word < 0 || ledger_word(ledger, word, &value) < 0 ? NULL : PyLong_FromUnsignedLongLong(value);
}

static int
Ledger_set_item(Ledger *ledger, PyObject *index, PyObject *number)
{
    int word = word_at(index);
    uint64_t value;

    if (word < 0) {
        return -1;
    }
    if (!number) {
        PyErr_SetString(PyExc_TypeError, "a record keeps its words");
        return -1;
    }
    value = PyLong_AsUnsignedLongLong(number);
    return value == (uint64_t)-1 && PyErr_Occurred() ? -1 : ledger_store(ledger, word, value);
}

static PyMethodDef methods[] = {
    {"show", (PyCFunction)Ledger_show, METH_NOARGS, "Have the record say the status."},
    {"reading", (PyCFunction)Ledger_reading, METH_NOARGS,
     "Note, before a system call takes bytes from the kernel, that it does."},
    {"read_nothing", (PyCFunction)Ledger_read_nothing, METH_NOARGS,
     "Take `reading` back: no byte came, and none is uncommitted."},
    {"sending", (PyCFunction)Ledger_sending, METH_NOARGS,
     "Note, before the handler's own bytes go out, that they do."},
    {"push_begins", (PyCFunction)Ledger_push_begins, METH_NOARGS,
     "Note, before bytes from elsewhere go out, that they do."},
    {"push_ends", (PyCFunction)Ledger_push_ends, METH_NOARGS,
     "Note that they have gone out, or will not."},
    {"dispute", (PyCFunction)Ledger_dispute, METH_O,
     "Note that a worker which died may have dealt with so many bytes of the kernel's."},
    {"commit", (PyCFunction)(void (*)(void))Ledger_commit, METH_VARARGS | METH_KEYWORDS,
     "Note that all is dealt with, but for bytes that are unread."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"read", T_BOOL, offsetof(Ledger, read), 0, "Bytes have left the kernel."},
    {"sent", T_BOOL, offsetof(Ledger, sent), 0, "The handler has sent."},
    {"bound", T_BOOL, offsetof(Ledger, bound), 0, "This process alone has what is needed."},
    {"disputed", T_BOOL, offsetof(Ledger, disputed), 0, "Some of it was delivered before."},
    {"again", T_BOOL, offsetof(Ledger, again), 0, "None of that has been committed yet."},
    {"pushes", T_LONGLONG, offsetof(Ledger, pushes), 0, "So many sends from elsewhere go out."},
    {"doubtful", T_LONGLONG, offsetof(Ledger, doubtful), 0, "So many bytes may come again."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"status", (getter)Ledger_status, NULL, "What the record is to say.", NULL},
    {"record", (getter)Ledger_record, (setter)Ledger_set_record, "The record.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Ledger_new},
    {Py_tp_dealloc, Ledger_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {Py_mp_subscript, Ledger_item},
    {Py_mp_ass_subscript, Ledger_set_item},
    {Py_tp_doc, "The twin of `_stream._ledger.Ledger`."},
    {0, NULL},
};

PyType_Spec ledger_spec = {
    .name = "socketkeep._native._core.Ledger",
    .basicsize = sizeof(Ledger),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
