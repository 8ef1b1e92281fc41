/* Making what a worker has of a connection that it accepts, or that it is given: socket, lease, hooks, core,
   `Connection` or `AsyncConnection`, and the entry that holds them.  The twin of what `_worker/_roster.py`
   and the constructors do, for connections that differ by their row, name and peer alone, by the header that
   an edge has sent before, and, where they are given, by what the last worker has left.

   It owns a pattern for each listener: those objects, made once by the constructors.  What is accepted
   gets copies of them.  Of a copy the slots that differ are written, and those that each connection has
   for itself (core, claims, waiter) are new; the rest is shared, and is never changed in place. */

#define _GNU_SOURCE

#include "core.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* An object, and where its class has slots. */
typedef struct {
    PyObject *object;
    Py_ssize_t *places;
    Py_ssize_t count;
} Pattern;

/* The slots that are written, by what they are of. */
enum {
    CONN_CORE, CONN_LEASE, CONN_HOOKS, CONN_PEER, CONN_SENT_BEFORE, CONN_READING, CONN_SENDING, CONN_WAITER,
    HOOKS_RECORD, HOOKS_SHELF,
    ENTRY_ROW, ENTRY_RECORD, ENTRY_SOCK, ENTRY_LEASE, ENTRY_HOOKS, ENTRY_PEER, ENTRY_CONN,
    TRANSPORT_SOCK, TRANSPORT_FD,
    WRITTEN
};

/* The items of a lease that differ. */
enum {
    LEASE_ID, LEASE_PEER, LEASE_TURN, LEASE_EPOCH, LEASE_ATTACHED, LEASE_STATE, LEASE_PROXY,
    DIFFERING
};

typedef struct {
    PyObject_HEAD
    State *state;
    int listener;
    char headed; /* the listener is an inlet, and each connection begins with a header */
    char nodelay;
    char is_async;
    Rows *rows;
    PyObject *numbers; /* an iterator over those of connections */
    Newcomer newcomer; /* what all have in common, and what the last had */
    double pace;
    int differing[DIFFERING];
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

/* Write an item of a lease that nobody has seen yet. */
static void
put_item(const Caster *caster, PyObject *lease, int which, PyObject *item)
{
    Py_ssize_t place = caster->differing[which];
    PyObject *before = PyTuple_GET_ITEM(lease, place);

    PyTuple_SET_ITEM(lease, place, Py_NewRef(item));
    Py_DECREF(before);
}

/* The lease of the connection in a row. */
static PyObject *
lease_of(const Caster *caster, uint32_t row, PyObject *id, PyObject *peer)
{
    PyObject *pattern = caster->lease, *lease, *turn;
    Py_ssize_t size = PyTuple_GET_SIZE(pattern);

    lease = Py_TYPE(pattern)->tp_alloc(Py_TYPE(pattern), size);
    if (!lease) {
        return NULL;
    }
    for (Py_ssize_t each = 0; each < size; each++) {
        PyTuple_SET_ITEM(lease, each, Py_NewRef(PyTuple_GET_ITEM(pattern, each)));
    }
    put_item(caster, lease, LEASE_ID, id);
    put_item(caster, lease, LEASE_PEER, peer);
    if (caster->pace == 0.0) {
        return lease;
    }
    turn = PyFloat_FromDouble(row * caster->pace);
    if (!turn) {
        Py_DECREF(lease);
        return NULL;
    }
    put_item(caster, lease, LEASE_TURN, turn);
    Py_DECREF(turn);
    return lease;
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
cast(Caster *caster, uint32_t row, int fd, PyObject *lease)
{
    const Py_ssize_t *written = caster->written;
    PyObject *number = PyLong_FromLong(fd), *sock = number ? socket_of(caster, number) : NULL;
    PyObject *peer = PyTuple_GET_ITEM(lease, caster->differing[LEASE_PEER]);
    PyObject *record, *hooks, *transport, *conn, *entry, *index;
    PyObject *core = NULL;

    if (!sock) {
        close(fd);
        Py_XDECREF(number);
        return NULL;
    }
    record = (PyObject *)ledger_at(caster->state->ledger, (PyObject *)caster->rows,
                                   board_row(&caster->rows->board, row));
    hooks = copy_of(&caster->hooks);
    transport = copy_of(&caster->transport);
    conn = copy_of(&caster->conn);
    entry = copy_of(&caster->entry);
    index = PyLong_FromUnsignedLong(row);
    if (record && hooks && transport && conn && entry && index) {
        put(transport, written[TRANSPORT_SOCK], Py_NewRef(sock));
        put(transport, written[TRANSPORT_FD], Py_NewRef(number));
        core = core_like(caster->core, sock, transport, lease, (Ledger *)record);
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
    Py_XDECREF(record);
    Py_XDECREF(hooks);
    Py_XDECREF(transport);
    Py_XDECREF(conn);
    Py_XDECREF(index);
    Py_XDECREF(core);
    return entry;
}

/* The lease of what was accepted last. */
static PyObject *
newcomers_lease(Caster *caster, uint32_t row)
{
    PyObject *id = id_of(caster, caster->newcomer.number);
    PyObject *peer = id ? PyUnicode_FromString(caster->newcomer.peer) : NULL;
    PyObject *lease = peer ? lease_of(caster, row, id, peer) : NULL;

    Py_XDECREF(id);
    Py_XDECREF(peer);
    return lease;
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

/* Have the header be in a lease that nobody has seen yet. */
static int
put_header(const Caster *caster, PyObject *lease, const unsigned char *header, Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)header, size);

    if (!bytes) {
        return -1;
    }
    put_item(caster, lease, LEASE_PROXY, bytes);
    Py_DECREF(bytes);
    return 0;
}

static PyObject *
Caster_accept(Caster *caster, PyObject *Py_UNUSED(ignored))
{
    static unsigned char header[HEADER_MOST]; /* the interpreter's lock is held */
    struct sockaddr_storage address;
    Py_ssize_t header_size = 0;
    socklen_t size = 0;
    PyObject *lease, *entry;
    int64_t row;
    int fd, one = 1;

    if (caster->headed) {
        fd = inlet_take(caster->listener);
        header_size = fd < 0 ? 0 : inlet_header(fd, header, &address);
    } else {
        fd = door_take(caster->listener, &address, &size);
    }
    if (fd < 0) {
        return core_done(fd == DOOR_FAILED);
    }
    board_peer(caster->newcomer.peer, &address);
    row = caster->newcomer.peer[0] ? rows_take(caster->rows) : -1;
    if (row < 0) {
        return door_told(fd, &address, size); /* there is a question, which is Python's to answer */
    }
    if (count_one(caster) < 0 || (header_size && inlet_take_header(fd, header, header_size) < 0)) {
        rows_free(caster->rows, (uint32_t)row);
        close(fd);
        return NULL;
    }
    board_enter(&caster->rows->board, (uint32_t)row, &caster->newcomer);
    if (caster->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* as far as it can be had */
    }
    lease = newcomers_lease(caster, (uint32_t)row);
    if (lease && header_size && put_header(caster, lease, header, header_size) < 0) {
        Py_CLEAR(lease);
    }
    if (lease) {
        entry = cast(caster, (uint32_t)row, fd, lease);
        Py_DECREF(lease);
    } else {
        close(fd);
        entry = NULL;
    }
    if (!entry) {
        rows_withdraw(caster->rows, (uint32_t)row);
    }
    return entry;
}

/* The arguments of `attach`. */
enum {
    GIVEN_FD, GIVEN_ROW, GIVEN_ID, GIVEN_EPOCH, GIVEN_WHY, GIVEN_PEER, GIVEN_STATE, GIVEN_ACCEPTED_AT,
    GIVEN_BYTES_IN, GIVEN_BYTES_OUT, GIVEN_KEPT, GIVEN_TUNED, GIVEN_SHELF,
    ARGUMENTS
};

/* Read a connection's id; -1: it is none, and an error is set. */
static int
read_id(Newcomer *guest, PyObject *id)
{
    uint64_t *parts[] = {&guest->boot, &guest->minted_by, &guest->number};
    const char *text = PyUnicode_AsUTF8(id);
    char *end;

    for (int each = 0; text && each < 3; each++) {
        *parts[each] = strtoull(text, &end, 16);
        text = end > text && *end == (each < 2 ? '-' : 0) ? end + 1 : NULL;
    }
    if (!text && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "%R is no id of a connection", id);
    }
    return text ? 0 : -1;
}

/* Read what the row of a connection that was given is to tell; -1: an error is set. */
static int
read_guest(Newcomer *guest, PyObject *const *args)
{
    Py_ssize_t size = 0;
    const char *peer = PyUnicode_AsUTF8AndSize(args[GIVEN_PEER], &size);
    int kept = PyObject_IsTrue(args[GIVEN_KEPT]);

    if (!peer || kept < 0 || read_id(guest, args[GIVEN_ID]) < 0) {
        return -1;
    }
    memset(guest->peer, 0, sizeof guest->peer);
    memcpy(guest->peer, peer, (size_t)(size < PEER_SIZE ? size : PEER_SIZE));
    guest->epoch = PyLong_AsUnsignedLongLong(args[GIVEN_EPOCH]);
    guest->accepted_at = PyLong_AsUnsignedLongLong(args[GIVEN_ACCEPTED_AT]);
    guest->bytes_in = PyLong_AsUnsignedLongLong(args[GIVEN_BYTES_IN]);
    guest->bytes_out = PyLong_AsUnsignedLongLong(args[GIVEN_BYTES_OUT]);
    guest->keep = kept ? board_keep_token(guest) : 0;
    return PyErr_Occurred() ? -1 : 0;
}

/* Enter a connection that was given in its row; -1: an error is set. */
static int
enter_guest(Caster *caster, uint32_t row, const Newcomer *guest, PyObject *const *args)
{
    PyObject *shelf = args[GIVEN_SHELF], *state = args[GIVEN_STATE];

    board_prepare(&caster->rows->board, row, guest);
    if (shelf != Py_None && state != Py_None) {
        PyObject *put = PyObject_CallMethodOneArg(shelf, caster->state->names[PUT], state);

        if (!put) {
            return -1;
        }
        Py_DECREF(put);
    }
    board_publish(&caster->rows->board, row, guest->number);
    return 0;
}

static PyObject *
guests_lease(const Caster *caster, uint32_t row, PyObject *const *args)
{
    PyObject *lease = lease_of(caster, row, args[GIVEN_ID], args[GIVEN_PEER]);

    if (lease) {
        put_item(caster, lease, LEASE_EPOCH, args[GIVEN_EPOCH]);
        put_item(caster, lease, LEASE_ATTACHED, args[GIVEN_WHY]);
        put_item(caster, lease, LEASE_STATE, args[GIVEN_STATE]);
    }
    return lease;
}

/* Have the description be as a worker wants it, as far as it can be had.  tuned: its options are as its
   handler has left them. */
static void
prepare_description(const Caster *caster, int fd, int tuned)
{
    int one = 1;

    ioctl(fd, FIONBIO, &one); /* whoever had it may have let it block */
    if (tuned) {
        return;
    }
    if (caster->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one); /* who died with it may have raised it */
}

static PyObject *
Caster_attach(Caster *caster, PyObject *const *args, Py_ssize_t given)
{
    const Py_ssize_t *written = caster->written;
    Newcomer guest = caster->newcomer;
    PyObject *lease, *entry = NULL, *conn, *hooks;
    unsigned long row;
    int tuned;
    long fd;

    if (given != ARGUMENTS) {
        return PyErr_Format(PyExc_TypeError, "attach() takes %d arguments (%zd given)", ARGUMENTS, given);
    }
    fd = PyLong_AsLong(args[GIVEN_FD]);
    if (fd < 0 || fd > INT_MAX) {
        PyErr_SetString(PyExc_ValueError, "there is no such descriptor");
        return NULL;
    }
    row = PyLong_AsUnsignedLong(args[GIVEN_ROW]);
    tuned = PyObject_IsTrue(args[GIVEN_TUNED]);
    if (PyErr_Occurred()) {
        close((int)fd);
        return NULL;
    }
    if (row >= caster->rows->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such row");
        close((int)fd);
        return NULL;
    }
    lease = guests_lease(caster, (uint32_t)row, args);
    if (!lease || read_guest(&guest, args) < 0 || enter_guest(caster, (uint32_t)row, &guest, args) < 0) {
        close((int)fd);
    } else {
        prepare_description(caster, (int)fd, tuned);
        entry = cast(caster, (uint32_t)row, (int)fd, lease);
    }
    Py_XDECREF(lease);
    if (!entry) {
        return NULL;
    }
    conn = *slot(entry, written[ENTRY_CONN]);
    hooks = *slot(entry, written[ENTRY_HOOKS]);
    core_go_on((Core *)*slot(conn, written[CONN_CORE]), guest.bytes_in, guest.bytes_out,
               args[GIVEN_STATE], args[GIVEN_SHELF]);
    put(conn, written[CONN_SENT_BEFORE], Py_NewRef(args[GIVEN_BYTES_OUT]));
    put(hooks, written[HOOKS_SHELF], Py_NewRef(args[GIVEN_SHELF]));
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
        {CONN_SENT_BEFORE, "_sent_before", offsetof(Caster, conn)},
        {HOOKS_RECORD, "record", offsetof(Caster, hooks)},
        {HOOKS_SHELF, "shelf", offsetof(Caster, hooks)},
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
    static char *names[] = {"entry", "listener", "made", "rows", "numbers", "minted", "series",
                            "pace", "differing", "headed", "nodelay", "owned", NULL};
    PyObject *entry, *rows, *numbers, *family, *kind, *proto, *owners, *forget;
    unsigned long long boot, serial;
    unsigned long index;
    const char *series;
    Py_ssize_t size;
    int headed, nodelay;

    if (caster->state) {
        PyErr_SetString(PyExc_RuntimeError, "a caster is set up once");
        return -1;
    }
    caster->state = PyType_GetModuleState(Py_TYPE(caster));
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "Oi(OOO)O!O(KKk)s#d(iiiiiii)pp(OO):Caster", names, &entry, &caster->listener,
            &family, &kind, &proto, caster->state->rows, &rows, &numbers,
            &boot, &serial, &index, &series, &size, &caster->pace, &caster->differing[0],
            &caster->differing[1], &caster->differing[2], &caster->differing[3], &caster->differing[4],
            &caster->differing[5], &caster->differing[6], &headed, &nodelay, &owners, &forget)) {
        return -1;
    }
    if (size >= SERIES_SIZE || !PyIter_Check(numbers) || (owners != Py_None && !PySet_Check(owners))) {
        PyErr_SetString(PyExc_TypeError, "a caster takes a short series, an iterator, and a set");
        return -1;
    }
    memcpy(caster->series, series, (size_t)size);
    caster->series_size = (size_t)size;
    caster->headed = (char)headed;
    caster->nodelay = (char)nodelay;
    caster->newcomer = (Newcomer){
        .boot = boot, .minted_by = serial, .pid = (uint64_t)getpid(), .epoch = 1, .listener = index,
    };
    caster->rows = (Rows *)Py_NewRef(rows);
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
    {"attach", (PyCFunction)(void (*)(void))Caster_attach, METH_FASTCALL,
     "Return the entry of a connection that was given, in a row that is claimed; see `_core.pyi`.  The "
     "descriptor is closed when that fails."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Caster_init},
    {Py_tp_dealloc, Caster_dealloc},
    {Py_tp_traverse, Caster_traverse},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Its twins are `accepted` and `attached` of `_worker._roster.Roster`, with the constructors."},
    {0, NULL},
};

PyType_Spec caster_spec = {
    .name = "socketkeep._native._core.Caster",
    .basicsize = sizeof(Caster),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
