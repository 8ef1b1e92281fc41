/* Making what a worker has of a connection that it accepts: socket, lease, hooks, core, `Connection` or
   `AsyncConnection`, and the entry that holds them.  The twin of what `_worker/_roster.py` and the
   constructors do, for connections that differ by their row, name and peer alone.

   It owns a pattern for each listener: those objects, made once by the constructors.  What is accepted
   gets copies of them.  Of a copy the slots that differ are written, and those that each connection has
   for itself (core, claims, waiter) are new; the rest is shared, and is never changed in place. */

#define _GNU_SOURCE

#include "core.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <unistd.h>

/* An object, and where its class has slots. */
typedef struct {
    PyObject *object;
    Py_ssize_t *places;
    Py_ssize_t count;
} Pattern;

/* The slots that are written, by what they are of. */
enum {
    CONN_CORE, CONN_LEASE, CONN_HOOKS, CONN_PEER, CONN_READING, CONN_SENDING, CONN_WAITER,
    HOOKS_RECORD,
    ENTRY_ROW, ENTRY_RECORD, ENTRY_SOCK, ENTRY_LEASE, ENTRY_HOOKS, ENTRY_PEER, ENTRY_CONN,
    TRANSPORT_SOCK, TRANSPORT_FD,
    WRITTEN
};

typedef struct {
    PyObject_HEAD
    State *state;
    int listener;
    char nodelay;
    char is_async;
    Rows *rows;
    PyObject *words;   /* of the scoreboard, of which a record is a slice */
    PyObject *numbers; /* an iterator over those of connections */
    Newcomer newcomer; /* what all have in common, and what the last had */
    double pace;
    int differing[3]; /* the items of a lease that differ: id, peer, turn */
    char series[SERIES_SIZE + NUMBER_SIZE];
    size_t series_size;
    PyObject *lease;
    PyObject *owners; /* as `_base/_forking.own` has them; NULL: somebody else tells of forks */
    PyObject *forget;
    PyObject *family, *kind, *proto;
    Pattern entry, conn, hooks, transport, sock;
    Core *core;
    Py_ssize_t written[WRITTEN];
} Caster;

static int
note_places(Pattern *pattern, PyObject *object)
{
    PyObject *bases = Py_TYPE(object)->tp_mro;

    pattern->object = Py_NewRef(object);
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(bases); each++) {
        const PyMemberDef *member = ((PyTypeObject *)PyTuple_GET_ITEM(bases, each))->tp_members;

        for (; member && member->name; member++) {
            Py_ssize_t *places;

            if (member->type != T_OBJECT_EX) {
                continue;
            }
            places = PyMem_Resize(pattern->places, Py_ssize_t, pattern->count + 1);
            if (!places) {
                PyErr_NoMemory();
                return -1;
            }
            pattern->places = places;
            places[pattern->count++] = member->offset;
        }
    }
    return 0;
}

static PyObject **
slot(PyObject *object, Py_ssize_t place)
{
    return (PyObject **)((char *)object + place);
}

/* Have the slots of an object be as the pattern's. */
static void
fill(const Pattern *pattern, PyObject *object)
{
    for (Py_ssize_t each = 0; each < pattern->count; each++) {
        Py_ssize_t place = pattern->places[each];

        *slot(object, place) = Py_XNewRef(*slot(pattern->object, place));
    }
}

static PyObject *
copy_of(const Pattern *pattern)
{
    PyTypeObject *type = Py_TYPE(pattern->object);
    PyObject *copy = type->tp_alloc(type, 0);

    if (copy) {
        fill(pattern, copy);
    }
    return copy;
}

/* Write a slot of a copy; the reference is the slot's. */
static void
put(PyObject *copy, Py_ssize_t place, PyObject *value)
{
    PyObject **at = slot(copy, place), *before = *at;

    *at = value;
    Py_XDECREF(before);
}

/* The socket of a descriptor, which it has from there on. */
static PyObject *
socket_of(Caster *caster, PyObject *number)
{
    PyTypeObject *type = Py_TYPE(caster->sock.object);
    PyObject *none = PyTuple_New(0), *sock = none ? type->tp_new(type, none, NULL) : NULL;
    PyObject *given = sock ? PyTuple_Pack(4, caster->family, caster->kind, caster->proto, number) : NULL;

    Py_XDECREF(none);
    if (!given || type->tp_base->tp_init(sock, given, NULL) < 0) {
        Py_XDECREF(given);
        Py_XDECREF(sock);
        return NULL;
    }
    Py_DECREF(given);
    fill(&caster->sock, sock);
    return sock;
}

static PyObject *
id_of(Caster *caster, uint64_t number)
{
    const char *end = write_hexadecimal(caster->series + caster->series_size, number);

    return PyUnicode_FromStringAndSize(caster->series, end - caster->series);
}

static PyObject *
lease_of(Caster *caster, PyObject *peer)
{
    PyObject *pattern = caster->lease;
    Py_ssize_t size = PyTuple_GET_SIZE(pattern);
    PyObject *id = id_of(caster, caster->newcomer.number), *lease = NULL;

    if (id) {
        lease = Py_TYPE(pattern)->tp_alloc(Py_TYPE(pattern), size);
    }
    if (!lease) {
        Py_XDECREF(id);
        return NULL;
    }
    for (Py_ssize_t each = 0; each < size; each++) {
        PyObject *item = each == caster->differing[0]   ? id
                         : each == caster->differing[1] ? peer
                                                        : PyTuple_GET_ITEM(pattern, each);

        PyTuple_SET_ITEM(lease, each, Py_NewRef(item));
    }
    Py_DECREF(id);
    return lease;
}

/* Have the lease say when its connection's turn to move is. */
static int
take_turn(Caster *caster, PyObject *lease, uint32_t row)
{
    PyObject *turn, *before;

    if (caster->pace == 0.0) {
        return 0;
    }
    turn = PyFloat_FromDouble(row * caster->pace);
    if (!turn) {
        return -1;
    }
    before = PyTuple_GET_ITEM(lease, caster->differing[2]);
    PyTuple_SET_ITEM(lease, caster->differing[2], turn);
    Py_DECREF(before);
    return 0;
}

static int
have_told_of_forks(Caster *caster, PyObject *conn)
{
    PyObject *owned = PyWeakref_NewRef(conn, caster->forget);
    int failed = owned ? PySet_Add(caster->owners, owned) : -1;

    Py_XDECREF(owned);
    return failed;
}

/* What each connection has for itself, beside its core: two claims, or a waiter. */
static int
add_own(Caster *caster, PyObject *conn)
{
    const Py_ssize_t *written = caster->written;

    if (caster->is_async) {
        Waiter *like = (Waiter *)*slot(caster->conn.object, written[CONN_WAITER]);
        Waiter *waiter = waiter_of(caster->state->waiter, like->loop);

        put(conn, written[CONN_WAITER], (PyObject *)waiter);
        if (!waiter) {
            return -1;
        }
        waiter->tended = like->tended;
        waiter->ordered = like->ordered;
        return 0;
    }
    for (int which = CONN_READING; which <= CONN_SENDING; which++) {
        PyTypeObject *type = caster->state->claim;
        PyObject *claim = type->tp_alloc(type, 0);

        put(conn, written[which], claim);
        if (!claim) {
            return -1;
        }
    }
    return caster->owners ? have_told_of_forks(caster, conn) : 0;
}

/* The entry of a connection that has its row; NULL: an error is set, and the descriptor is closed. */
static PyObject *
cast(Caster *caster, uint32_t row, int fd)
{
    const Py_ssize_t *written = caster->written;
    Py_ssize_t start = HEADER_WORDS + (Py_ssize_t)row * ROW_WORDS;
    PyObject *number = PyLong_FromLong(fd), *sock = number ? socket_of(caster, number) : NULL;
    PyObject *peer, *record, *lease, *hooks, *transport, *conn, *entry, *index;
    PyObject *core = NULL;

    if (!sock) {
        close(fd);
        Py_XDECREF(number);
        return NULL;
    }
    peer = PyUnicode_FromString(caster->newcomer.peer);
    record = PySequence_GetSlice(caster->words, start, start + ROW_WORDS);
    lease = peer ? lease_of(caster, peer) : NULL;
    hooks = copy_of(&caster->hooks);
    transport = copy_of(&caster->transport);
    conn = copy_of(&caster->conn);
    entry = copy_of(&caster->entry);
    index = PyLong_FromUnsignedLong(row);
    if (record && lease && hooks && transport && conn && entry && index &&
        take_turn(caster, lease, row) == 0) {
        put(transport, written[TRANSPORT_SOCK], Py_NewRef(sock));
        put(transport, written[TRANSPORT_FD], Py_NewRef(number));
        core = core_like(caster->core, sock, transport, lease, record);
    }
    if (core) {
        put(hooks, written[HOOKS_RECORD], Py_NewRef(record));
        put(conn, written[CONN_CORE], Py_NewRef(core));
        put(conn, written[CONN_LEASE], Py_NewRef(lease));
        put(conn, written[CONN_HOOKS], Py_NewRef(hooks));
        put(conn, written[CONN_PEER], Py_NewRef(peer));
        put(entry, written[ENTRY_ROW], Py_NewRef(index));
        put(entry, written[ENTRY_RECORD], Py_NewRef(record));
        put(entry, written[ENTRY_SOCK], Py_NewRef(sock));
        put(entry, written[ENTRY_LEASE], Py_NewRef(lease));
        put(entry, written[ENTRY_HOOKS], Py_NewRef(hooks));
        put(entry, written[ENTRY_PEER], Py_NewRef(peer));
        put(entry, written[ENTRY_CONN], Py_NewRef(conn));
    }
    if (!core || add_own(caster, conn) < 0) {
        Py_CLEAR(entry);
    }
    Py_DECREF(number);
    Py_DECREF(sock);
    Py_XDECREF(peer);
    Py_XDECREF(record);
    Py_XDECREF(lease);
    Py_XDECREF(hooks);
    Py_XDECREF(transport);
    Py_XDECREF(conn);
    Py_XDECREF(index);
    Py_XDECREF(core);
    return entry;
}

/* The number of the next connection; -1: an error is set. */
static int
count_one(Caster *caster)
{
    PyObject *number = PyIter_Next(caster->numbers);

    if (!number) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_RuntimeError, "there is no number for a connection any more");
        }
        return -1;
    }
    caster->newcomer.number = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
Caster_accept(Caster *caster, PyObject *Py_UNUSED(ignored))
{
    struct sockaddr_storage address;
    socklen_t size;
    PyObject *entry;
    int64_t row;
    int fd, one = 1;

    fd = door_take(caster->listener, &address, &size);
    if (fd < 0) {
        return core_done(fd == DOOR_FAILED);
    }
    board_peer(caster->newcomer.peer, &address);
    row = caster->newcomer.peer[0] ? rows_take(caster->rows) : -1;
    if (row < 0) {
        return door_told(fd, &address, size); /* there is a question, which is Python's to answer */
    }
    if (count_one(caster) < 0) {
        rows_free(caster->rows, (uint32_t)row);
        close(fd);
        return NULL;
    }
    board_enter(&caster->rows->board, (uint32_t)row, &caster->newcomer);
    if (caster->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* as far as it can be had */
    }
    entry = cast(caster, (uint32_t)row, fd);
    if (!entry) {
        rows_withdraw(caster->rows, (uint32_t)row);
    }
    return entry;
}

static PyObject *
part_of(PyObject *whole, const char *name, Pattern *pattern)
{
    PyObject *part = PyObject_GetAttrString(whole, name);

    if (part && note_places(pattern, part) < 0) {
        Py_CLEAR(part);
    }
    Py_XDECREF(part); /* the pattern has it */
    return part;
}

/* Find where what is written has its place; -1: an error is set. */
static int
find_written(Caster *caster)
{
    static const struct {
        int written;
        const char *name;
        size_t pattern;
    } SLOT[] = {
        {CONN_CORE, "core", offsetof(Caster, conn)},
        {CONN_LEASE, "lease", offsetof(Caster, conn)},
        {CONN_HOOKS, "hooks", offsetof(Caster, conn)},
        {CONN_PEER, "_peer", offsetof(Caster, conn)},
        {HOOKS_RECORD, "record", offsetof(Caster, hooks)},
        {ENTRY_ROW, "row", offsetof(Caster, entry)},
        {ENTRY_RECORD, "record", offsetof(Caster, entry)},
        {ENTRY_SOCK, "sock", offsetof(Caster, entry)},
        {ENTRY_LEASE, "lease", offsetof(Caster, entry)},
        {ENTRY_HOOKS, "hooks", offsetof(Caster, entry)},
        {ENTRY_PEER, "peer", offsetof(Caster, entry)},
        {ENTRY_CONN, "conn", offsetof(Caster, entry)},
        {TRANSPORT_SOCK, "sock", offsetof(Caster, transport)},
        {TRANSPORT_FD, "input_fd", offsetof(Caster, transport)},
    };
    PyObject *conn = (PyObject *)Py_TYPE(caster->conn.object);

    for (size_t each = 0; each < sizeof SLOT / sizeof *SLOT; each++) {
        const Pattern *of = (const Pattern *)((const char *)caster + SLOT[each].pattern);
        Py_ssize_t place = slot_of((PyObject *)Py_TYPE(of->object), SLOT[each].name);

        if (!place) {
            return -1;
        }
        caster->written[SLOT[each].written] = place;
    }
    if (caster->is_async) {
        caster->written[CONN_WAITER] = slot_of(conn, "_waiter");
        return caster->written[CONN_WAITER] ? 0 : -1;
    }
    caster->written[CONN_READING] = slot_of(conn, "_reading");
    caster->written[CONN_SENDING] = slot_of(conn, "_sending_lock");
    return caster->written[CONN_READING] && caster->written[CONN_SENDING] ? 0 : -1;
}

/* Take the pattern apart; -1: an error is set. */
static int
take_apart(Caster *caster, PyObject *entry)
{
    PyObject *conn, *core, *waiter;

    if (note_places(&caster->entry, entry) < 0 || !part_of(entry, "sock", &caster->sock) ||
        !part_of(entry, "hooks", &caster->hooks) || !(conn = part_of(entry, "conn", &caster->conn))) {
        return -1;
    }
    caster->lease = PyObject_GetAttrString(entry, "lease");
    core = caster->lease ? PyObject_GetAttrString(conn, "core") : NULL;
    if (!core) {
        return -1;
    }
    caster->core = (Core *)core;
    if (!PyObject_TypeCheck(core, caster->state->core) || !core_is_plain(caster->core) ||
        !core_life(caster->core) || !PyTuple_Check(caster->lease)) {
        PyErr_SetString(PyExc_TypeError, "the pattern of a connection is one of the compiled core");
        return -1;
    }
    waiter = PyObject_GetAttrString(conn, "_waiter");
    caster->is_async = waiter != NULL;
    if (waiter && !Py_IS_TYPE(waiter, caster->state->waiter)) {
        PyErr_SetString(PyExc_TypeError, "the pattern's waiter is none of the compiled core");
    } else if (!waiter) {
        PyErr_Clear();
    }
    Py_XDECREF(waiter);
    return !PyErr_Occurred() && part_of(core, "transport", &caster->transport) ? find_written(caster) : -1;
}

static int
Caster_init(Caster *caster, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"entry", "listener", "made", "rows", "words", "numbers", "minted", "series",
                            "pace", "differing", "nodelay", "owned", NULL};
    PyObject *entry, *rows, *words, *numbers, *family, *kind, *proto, *owners, *forget;
    unsigned long long boot, serial;
    unsigned long index;
    const char *series;
    Py_ssize_t size;
    int nodelay;

    if (caster->state) {
        PyErr_SetString(PyExc_RuntimeError, "a caster is set up once");
        return -1;
    }
    caster->state = PyType_GetModuleState(Py_TYPE(caster));
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "Oi(OOO)O!O!O(KKk)s#d(iii)p(OO):Caster", names, &entry, &caster->listener,
            &family, &kind, &proto, caster->state->rows, &rows, &PyMemoryView_Type, &words, &numbers,
            &boot, &serial, &index, &series, &size, &caster->pace, &caster->differing[0],
            &caster->differing[1], &caster->differing[2], &nodelay, &owners, &forget)) {
        return -1;
    }
    if (size >= SERIES_SIZE || !PyIter_Check(numbers) || (owners != Py_None && !PySet_Check(owners))) {
        PyErr_SetString(PyExc_TypeError, "a caster takes a short series, an iterator, and a set");
        return -1;
    }
    memcpy(caster->series, series, (size_t)size);
    caster->series_size = (size_t)size;
    caster->nodelay = (char)nodelay;
    caster->newcomer = (Newcomer){
        .boot = boot, .minted_by = serial, .pid = (uint64_t)getpid(), .listener = index,
    };
    caster->rows = (Rows *)Py_NewRef(rows);
    caster->words = Py_NewRef(words);
    caster->numbers = Py_NewRef(numbers);
    caster->family = Py_NewRef(family);
    caster->kind = Py_NewRef(kind);
    caster->proto = Py_NewRef(proto);
    if (owners != Py_None) {
        caster->owners = Py_NewRef(owners);
        caster->forget = Py_NewRef(forget);
    }
    return take_apart(caster, entry);
}

/* It has no tp_clear: nothing that it holds leads back to it. */
static int
Caster_traverse(Caster *caster, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(caster));
    Py_VISIT(caster->rows);
    Py_VISIT(caster->words);
    Py_VISIT(caster->numbers);
    Py_VISIT(caster->lease);
    Py_VISIT(caster->owners);
    Py_VISIT(caster->forget);
    Py_VISIT(caster->core);
    Py_VISIT(caster->entry.object);
    Py_VISIT(caster->conn.object);
    Py_VISIT(caster->hooks.object);
    Py_VISIT(caster->transport.object);
    Py_VISIT(caster->sock.object);
    return 0;
}

static void
drop_pattern(Pattern *pattern)
{
    Py_CLEAR(pattern->object);
    PyMem_Free(pattern->places);
    pattern->places = NULL;
}

static void
Caster_dealloc(Caster *caster)
{
    PyTypeObject *type = Py_TYPE(caster);

    PyObject_GC_UnTrack(caster);
    Py_XDECREF(caster->rows);
    Py_XDECREF(caster->words);
    Py_XDECREF(caster->numbers);
    Py_XDECREF(caster->lease);
    Py_XDECREF(caster->owners);
    Py_XDECREF(caster->forget);
    Py_XDECREF(caster->family);
    Py_XDECREF(caster->kind);
    Py_XDECREF(caster->proto);
    Py_XDECREF(caster->core);
    drop_pattern(&caster->entry);
    drop_pattern(&caster->conn);
    drop_pattern(&caster->hooks);
    drop_pattern(&caster->transport);
    drop_pattern(&caster->sock);
    type->tp_free(caster);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"accept", (PyCFunction)Caster_accept, METH_NOARGS,
     "Return the entry of the next connection; a descriptor and its peer, where there is a question; "
     "None: there is none."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Caster_init},
    {Py_tp_dealloc, Caster_dealloc},
    {Py_tp_traverse, Caster_traverse},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Its twin is `_worker._roster.Roster.accepted`, with the constructors."},
    {0, NULL},
};

PyType_Spec caster_spec = {
    .name = "socketkeep._native._core.Caster",
    .basicsize = sizeof(Caster),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
