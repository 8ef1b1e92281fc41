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
    CONN_CORE, CONN_LEASE, CONN_HOOKS, CONN_SENT_BEFORE, CONN_READING, CONN_SENDING, CONN_WAITER,
    HOOKS_RECORD, HOOKS_SHELF,
    ENTRY_ROW, ENTRY_RECORD, ENTRY_HANDLE, ENTRY_LEASE, ENTRY_HOOKS, ENTRY_CONN,
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

/* A socket of a descriptor; NULL: an error is set, and the descriptor is the caller's still. */
static PyObject *
new_socket(const Caster *caster, int fd)
{
    PyTypeObject *type = Py_TYPE(caster->sock.object);
    PyObject *none = PyTuple_New(0), *sock = none ? type->tp_new(type, none, NULL) : NULL;
    PyObject *given;
    int failed;

    Py_XDECREF(none);
    if (!sock) {
        return NULL;
    }
    fill(&caster->sock, sock);
    if (fd < 0) {
        given = PyObject_CallMethod(sock, "close", NULL);
        failed = given ? 0 : -1;
    } else {
        given = Py_BuildValue("OOOi", caster->family, caster->kind, caster->proto, fd);
        failed = given ? type->tp_base->tp_init(sock, given, NULL) : -1;
    }
    Py_XDECREF(given);
    if (failed) {
        Py_CLEAR(sock);
    }
    return sock;
}

PyObject *
caster_socket(PyObject *maker, int fd)
{
    const Caster *caster = (Caster *)maker;
    PyObject *sock = new_socket(caster, fd);

    if (!sock && PyErr_ExceptionMatches(PyExc_OSError)) { /* it was closed by its number */
        PyErr_Clear();
        return new_socket(caster, -1);
    }
    if (!sock && fd >= 0) {
        close(fd);
    }
    return sock;
}

PyObject *
caster_transport(PyObject *maker, PyObject *sock)
{
    const Caster *caster = (Caster *)maker;
    PyObject *number = PyObject_CallMethodNoArgs(sock, caster->state->names[FILENO]);
    PyObject *transport = number ? copy_of(&caster->transport) : NULL;

    if (transport) {
        put(transport, caster->written[TRANSPORT_SOCK], Py_NewRef(sock));
        put(transport, caster->written[TRANSPORT_FD], Py_NewRef(number));
    }
    Py_XDECREF(number);
    return transport;
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

/* The lease of a connection that was accepted, in a fifth of the memory: what differs is told when it is
   asked for, and all else is the pattern's.  Its twin is `Lease`, which `_replace` makes of it. */
typedef struct {
    PyObject_HEAD
    Caster *caster;
    uint64_t number;
    uint32_t row;
    in_port_t port;
    char is_inet;
    union {
        struct in_addr four;
        struct in6_addr six;
    } host;
} BriefLease;

static PyObject *
brief_lease(Caster *caster, uint32_t row, const struct sockaddr_storage *address)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
    PyTypeObject *type = caster->state->brief_lease;
    BriefLease *lease = (BriefLease *)type->tp_alloc(type, 0);

    if (!lease) {
        return NULL;
    }
    lease->caster = (Caster *)Py_NewRef(caster);
    lease->number = caster->newcomer.number;
    lease->row = row;
    lease->is_inet = address->ss_family == AF_INET;
    if (lease->is_inet) {
        lease->port = four->sin_port;
        lease->host.four = four->sin_addr;
    } else {
        lease->port = six->sin6_port;
        lease->host.six = six->sin6_addr;
    }
    return (PyObject *)lease;
}

static PyObject *
BriefLease_id(BriefLease *lease, void *Py_UNUSED(closure))
{
    return id_of(lease->caster, lease->number);
}

static PyObject *
BriefLease_peer(BriefLease *lease, void *Py_UNUSED(closure))
{
    struct sockaddr_storage address = {.ss_family = lease->is_inet ? AF_INET : AF_INET6};
    struct sockaddr_in *four = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
    char peer[PEER_SIZE];

    if (lease->is_inet) {
        four->sin_port = lease->port;
        four->sin_addr = lease->host.four;
    } else {
        six->sin6_port = lease->port;
        six->sin6_addr = lease->host.six;
    }
    board_peer(peer, &address);
    return PyUnicode_FromString(peer);
}

static PyObject *
BriefLease_turn(BriefLease *lease, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(lease->row * lease->caster->pace);
}

static PyObject *
BriefLease_replace(BriefLease *lease, PyObject *args, PyObject *keywords)
{
    PyObject *id = BriefLease_id(lease, NULL), *peer = id ? BriefLease_peer(lease, NULL) : NULL;
    PyObject *whole = peer ? lease_of(lease->caster, lease->row, id, peer) : NULL;
    PyObject *replace = whole ? PyObject_GetAttrString(whole, "_replace") : NULL;
    PyObject *made = replace ? PyObject_Call(replace, args, keywords) : NULL;

    Py_XDECREF(id);
    Py_XDECREF(peer);
    Py_XDECREF(whole);
    Py_XDECREF(replace);
    return made;
}

static PyObject *
BriefLease_getattro(BriefLease *lease, PyObject *name)
{
    static const char *const OWN[] = {"id", "peer", "turn"};
    const char *text = PyUnicode_AsUTF8(name);
    int is_own = text && *text == '_';

    for (size_t each = 0; text && !is_own && each < sizeof OWN / sizeof *OWN; each++) {
        is_own = strcmp(text, OWN[each]) == 0;
    }
    if (!text) {
        return NULL;
    }
    return is_own ? PyObject_GenericGetAttr((PyObject *)lease, name)
                  : PyObject_GetAttr(lease->caster->lease, name);
}

static void
BriefLease_dealloc(BriefLease *lease)
{
    PyTypeObject *type = Py_TYPE(lease);

    Py_DECREF(lease->caster);
    type->tp_free(lease);
    Py_DECREF(type);
}

static PyMethodDef lease_methods[] = {
    {"_replace", (PyCFunction)(void (*)(void))BriefLease_replace, METH_VARARGS | METH_KEYWORDS,
     "Return a lease with other values of these fields."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lease_properties[] = {
    {"id", (getter)BriefLease_id, NULL, "The connection's id.", NULL},
    {"peer", (getter)BriefLease_peer, NULL, "The peer's address.", NULL},
    {"turn", (getter)BriefLease_turn, NULL, "Seconds until an order to move is obeyed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lease_slots[] = {
    {Py_tp_dealloc, BriefLease_dealloc},
    {Py_tp_getattro, BriefLease_getattro},
    {Py_tp_methods, lease_methods},
    {Py_tp_getset, lease_properties},
    {Py_tp_doc, "The lease of a connection that C has accepted; its twin is `_stream._lease.Lease`."},
    {0, NULL},
};

PyType_Spec brief_lease_spec = {
    .name = "socketkeep._native._core.BriefLease",
    .basicsize = sizeof(BriefLease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lease_slots,
};

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
    PyObject *record, *hooks, *conn, *entry, *index, *core = NULL;

    record = (PyObject *)ledger_at(caster->state->ledger, (PyObject *)caster->rows,
                                   board_row(&caster->rows->board, row));
    hooks = copy_of(&caster->hooks);
    conn = copy_of(&caster->conn);
    entry = copy_of(&caster->entry);
    index = PyLong_FromUnsignedLong(row);
    if (record && hooks && conn && entry && index) {
        core = core_like(caster->core, (PyObject *)caster, fd, lease, (Ledger *)record);
    } else {
        close(fd);
    }
    if (core) {
        put(hooks, written[HOOKS_RECORD], Py_NewRef(record));
        put(conn, written[CONN_CORE], Py_NewRef(core));
        put(conn, written[CONN_LEASE], Py_NewRef(lease));
        put(conn, written[CONN_HOOKS], Py_NewRef(hooks));
        put(entry, written[ENTRY_ROW], Py_NewRef(index));
        put(entry, written[ENTRY_RECORD], Py_NewRef(record));
        put(entry, written[ENTRY_HANDLE], Py_NewRef(core));
        put(entry, written[ENTRY_LEASE], Py_NewRef(lease));
        put(entry, written[ENTRY_HOOKS], Py_NewRef(hooks));
        put(entry, written[ENTRY_CONN], Py_NewRef(conn));
    }
    if (!core || add_own(caster, conn) < 0) {
        Py_CLEAR(entry);
    }
    Py_XDECREF(record);
    Py_XDECREF(hooks);
    Py_XDECREF(conn);
    Py_XDECREF(index);
    Py_XDECREF(core);
    return entry;
}

/* The lease of what was accepted last, with the header that it began with; NULL: an error is set. */
static PyObject *
newcomers_lease(Caster *caster, uint32_t row, const struct sockaddr_storage *address,
                const unsigned char *header, Py_ssize_t size)
{
    PyObject *id, *peer, *bytes, *lease;

    if (!size) {
        return brief_lease(caster, row, address);
    }
    id = id_of(caster, caster->newcomer.number);
    peer = id ? PyUnicode_FromString(caster->newcomer.peer) : NULL;
    bytes = peer ? PyBytes_FromStringAndSize((const char *)header, size) : NULL;
    lease = bytes ? lease_of(caster, row, id, peer) : NULL;
    if (lease) {
        put_item(caster, lease, LEASE_PROXY, bytes);
    }
    Py_XDECREF(id);
    Py_XDECREF(peer);
    Py_XDECREF(bytes);
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
    lease = newcomers_lease(caster, (uint32_t)row, &address, header, header_size);
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
   handler has left them.  -1: it is none of a socket's, and an error is set. */
static int
prepare_description(const Caster *caster, int fd, int tuned)
{
    int one = 1, kind;
    socklen_t size = sizeof kind;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    ioctl(fd, FIONBIO, &one); /* whoever had it may have let it block */
    if (tuned) {
        return 0;
    }
    if (caster->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one); /* who died with it may have raised it */
    return 0;
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
    if (!lease || read_guest(&guest, args) < 0 || enter_guest(caster, (uint32_t)row, &guest, args) < 0 ||
        prepare_description(caster, (int)fd, tuned) < 0) {
        close((int)fd);
    } else {
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
        {CONN_SENT_BEFORE, "_sent_before", offsetof(Caster, conn)},
        {HOOKS_RECORD, "record", offsetof(Caster, hooks)},
        {HOOKS_SHELF, "shelf", offsetof(Caster, hooks)},
        {ENTRY_ROW, "row", offsetof(Caster, entry)},
        {ENTRY_RECORD, "record", offsetof(Caster, entry)},
        {ENTRY_HANDLE, "handle", offsetof(Caster, entry)},
        {ENTRY_LEASE, "lease", offsetof(Caster, entry)},
        {ENTRY_HOOKS, "hooks", offsetof(Caster, entry)},
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
