/* The fork server of a worker: accept, fork, reap, for connections that begin and end as most do.

   It owns the pidfds of its children and the rows that they leave free.  It has no policy: how many
   connections may be taken it is told; a connection that no process can be forked for, and a child
   that ended in any other way than an orderly one, it gives to Python.  Its twin is what
   `_worker/_fork.py` does with `_net/_children.py`.

   A fork costs by the pages that parent and child touch after it, each of which is copied: the way
   from accept(2) to the handler, and from the child's end to the next accept, touches few here.

   Hooks at fork.  The fork is the official one: PyOS_BeforeFork, fork(2) by the C library (whose own
   handlers OpenSSL and malloc rely on), PyOS_AfterFork_Parent and _Child.  But the hooks that
   `threading` and `logging` register (`withholdable`) do nothing in a fork from here while this
   process has one thread state:

   - `threading._after_fork` (3.11, 3.12, 3.13) replaces locks that another thread may have held,
     and marks the other threads as ended.  There is no other thread; this one stands in the loop of
     the worker, in no function of `threading`; its ident is the address of its stack's thread block,
     which fork(2) keeps.  The thread's native id the hook does not renew either.
   - `logging` takes its lock before a fork and gives it back after (`_acquireLock` and
     `_releaseLock`, `_prepareFork` and `_afterFork` in 3.13), so that it is not another thread's in
     the child, where it makes new locks for all handlers.  No thread can have one of them here.
   - `_base/_forking` closes in the child the sockets that it was not given.  It is withheld where there
     are none but the worker's listeners, which are closed here then.
   - What else is registered, by `random`, by libraries, by the program, runs.

   All signals are blocked meanwhile, so that no handler of Python's comes between.

   Children that wait (`--spare`) are forked while nothing else is to be done, and have touched by then
   what they will.  Such a child has a pair of sockets, both ends of which the worker has, too: a packet
   brings the connection's row and descriptor, and stays for the worker where the child dies before it
   has taken it; where the worker lets go of the pair, or dies, the child leaves. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* How many events are fetched at a time. */
enum { EVENTS = 64 };

/* Nanoseconds between attempts at a pidfd while other threads have all descriptors. */
enum { RETRY = 10000000 };

/* Seconds without a connection after which those that wait are made as many as they should be: who has
   just been given one comes first.  Where one was wanting they are at once. */
static const double QUIET = 0.002;
/* The same, once one could not be forked, or has died by itself: the next may, too. */
static const double SLOWLY = 1.0;

/* Seconds in which more are forked before anybody else is looked at: a client that comes again and again
   waits once for several of them. */
static const double AT_ONCE = 0.003;

/* After so many forks a worker has done what it does for each, and touches little else. */
enum { SETTLED = 16 };

/* The row of a child that has no connection. */
static const uint32_t NONE = UINT32_MAX;

typedef struct {
    pid_t pid; /* 0: there is none */
    uint32_t row;
    int ours, theirs; /* the ends of the pair of one that has waited; -1: there is none */
} Child;

/* A connection as a child that waits is given it, beside its descriptor. */
typedef struct {
    uint32_t row;
    uint32_t listener;
    char peer[PEER_SIZE];
} Given;

typedef struct {
    PyObject_HEAD
    Board board;
    Newcomer newcomer; /* what all have in common, and the number of the last */
    int epoll;
    int *doors; /* listeners, by their numbers; -1: not ours */
    Py_ssize_t door_count;
    Child *children; /* by their pidfds */
    int children_size;
    uint32_t *rows; /* free ones */
    size_t row_count, row_room;
    Py_ssize_t running; /* with a connection */
    Py_ssize_t idle;    /* without one: they wait, or are to leave */
    Py_ssize_t room;    /* for so many more */
    int *waiting;       /* the pidfds of those that wait, the first forked first */
    Py_ssize_t waiting_count, waiting_room;
    Py_ssize_t spare; /* so many are to wait */
    double refilled_from; /* the moment from which more are forked; 0: once nothing else is to be done */
    PyObject *owners; /* as `_base/_forking.let_go_of` has them */
    PyObject *crews;
    PyObject *guarded;
    PyObject *moulds; /* by the listeners' numbers, None where there is none */
    PyObject *serve_made;
    PyObject *handling; /* the context variable of `_stream/_lease.py` */
    PyObject *handler;
    PyObject *returned; /* told how the handler has ended, where the end is not as most are */
    int alone;          /* a child has nothing to let go of but what C closes */
    Py_ssize_t entry_row, conn_gathered; /* slots; 0: not looked for yet */
    int differing[3]; /* the items of a lease that differ: id, peer, turn */
    State *state;
    PyObject *closes; /* by which a child lets go of what is the worker's */
    PyObject *claim;
    PyObject *serve;
    PyObject *ended;
    PyObject *unforked;
    PyObject *exhausted;
    PyObject *trials;  /* the connection that children which wait serve beforehand, if there is one */
    PyObject *trial;   /* its handler */
    uint64_t trial_words[ROW_WORDS]; /* its row */
    PyObject *prepare; /* in a child that is to wait, where there is none */
    PyObject *died;    /* while it waited */
    PyObject *settled; /* called once; NULL: it has been, or there is nothing to do then */
    Py_ssize_t forked; /* until then */
} Server;

/* Which hooks need not know of the fork that is going on: those about threads, about sockets. */
static struct {
    char threads, sockets;
} withheld;

static PyObject *
call_for_threads(PyObject *hook, PyObject *Py_UNUSED(ignored))
{
    if (withheld.threads) {
        Py_RETURN_NONE;
    }
    return PyObject_CallNoArgs(hook);
}

static PyObject *
call_for_sockets(PyObject *hook, PyObject *Py_UNUSED(ignored))
{
    if (withheld.sockets) {
        Py_RETURN_NONE;
    }
    return PyObject_CallNoArgs(hook);
}

static PyMethodDef for_threads = {
    "for_threads", call_for_threads, METH_NOARGS, "A hook at fork, see `withholdable`.",
};

static PyMethodDef for_sockets = {
    "for_sockets", call_for_sockets, METH_NOARGS, "A hook at fork, see `withholdable`.",
};

PyObject *
core_withholdable(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *hook;
    const char *kind;

    if (!PyArg_ParseTuple(args, "Os", &hook, &kind)) {
        return NULL;
    }
    return PyCFunction_New(strcmp(kind, "sockets") ? &for_threads : &for_sockets, hook);
}

/* Whether there is nothing for the hook to let go of but what `let_go` closes. */
static int
is_only_listening(const Server *server)
{
    return PySet_Size(server->owners) == 0 && PyList_Size(server->crews) == 0 &&
           PySet_Size(server->guarded) <= PyList_GET_SIZE(server->moulds);
}

/* In the child: close what is the worker's.  Those of a socket return its descriptor. */
static void
let_go(Server *server)
{
    for (Py_ssize_t each = 0; each < PyList_GET_SIZE(server->closes); each++) {
        PyObject *left = PyObject_CallNoArgs(PyList_GET_ITEM(server->closes, each));
        if (!left) {
            PyErr_Clear(); /* it is closed already */
        } else if (PyLong_Check(left)) {
            close((int)PyLong_AsLong(left));
        }
        Py_XDECREF(left);
    }
}

static int
keep_row(Server *server, uint32_t row)
{
    if (server->row_count == server->row_room) {
        size_t room = server->row_room ? 2 * server->row_room : 64;
        uint32_t *rows = PyMem_Resize(server->rows, uint32_t, room);
        if (!rows) {
            PyErr_NoMemory();
            return -1;
        }
        server->rows = rows;
        server->row_room = room;
    }
    server->rows[server->row_count++] = row;
    return 0;
}

/* A free row's number; -1: there is none, -2: and an error is set. */
static int64_t
take_row(Server *server)
{
    PyObject *claimed;
    unsigned long row;

    if (server->row_count) {
        return server->rows[--server->row_count];
    }
    claimed = PyObject_CallNoArgs(server->claim);
    if (!claimed) {
        return -2;
    }
    if (claimed == Py_None) {
        Py_DECREF(claimed);
        return -1;
    }
    row = PyLong_AsUnsignedLong(claimed);
    Py_DECREF(claimed);
    return PyErr_Occurred() ? -2 : (int64_t)row;
}

/* The pidfd of a child, which must be watched: who else reaps it? */
static int
pidfd_of(pid_t pid)
{
    struct timespec pause = {.tv_nsec = RETRY};
    int pidfd;

    while ((pidfd = (int)syscall(SYS_pidfd_open, pid, 0)) < 0) {
        nanosleep(&pause, NULL);
    }
    return pidfd;
}

/* The number of a child's pidfd, which is watched from here on; -1: an error is set. */
static int
watch(Server *server, Child child)
{
    int pidfd = pidfd_of(child.pid);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pidfd};

    if (pidfd >= server->children_size) {
        int size = pidfd + 64;
        Child *children = PyMem_Resize(server->children, Child, size);
        if (!children) {
            close(pidfd);
            PyErr_NoMemory();
            return -1;
        }
        memset(children + server->children_size, 0,
               (size_t)(size - server->children_size) * sizeof *children);
        server->children = children;
        server->children_size = size;
    }
    if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, pidfd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(pidfd);
        return -1;
    }
    server->children[pidfd] = child;
    return pidfd;
}

static void
close_pair(Child *child)
{
    if (child->ours >= 0) {
        close(child->ours);
        close(child->theirs);
        child->ours = child->theirs = -1;
    }
}

/* In a child: close what the worker has of its other children. */
static void
close_children(Server *server)
{
    Py_ssize_t left = server->running + server->idle;

    for (int pidfd = 0; left && pidfd < server->children_size; pidfd++) {
        if (server->children[pidfd].pid) {
            server->children[pidfd].pid = 0;
            close_pair(&server->children[pidfd]);
            close(pidfd);
            left--;
        }
    }
    server->running = server->idle = server->waiting_count = 0;
}

/* `Mould` of `_worker/_mould.py`. */
enum {
    MOULD_FD, MOULD_NODELAY, MOULD_ENTRY, MOULD_CONN, MOULD_CORE, MOULD_RECORD, MOULD_LEASE,
    MOULD_OWNED, MOULD_SERIES, MOULD_PACE, MOULD_SIZE,
};

/* Replace an item of a tuple that nobody has seen. */
static void
replace(PyObject *tuple, Py_ssize_t index, PyObject *item)
{
    PyObject *before = PyTuple_GET_ITEM(tuple, index);

    PyTuple_SET_ITEM(tuple, index, item);
    Py_DECREF(before);
}

/* Write a slot. */
static void
put(PyObject *object, Py_ssize_t place, PyObject *value)
{
    PyObject **slot = (PyObject **)((char *)object + place), *before = *slot;

    *slot = Py_NewRef(value);
    Py_XDECREF(before);
}

/* Find the slots of entry and connection that are written or looked at; -1: an error is set. */
static int
find_slots(Server *server, PyObject *entry, PyObject *conn)
{
    PyObject *of_entry = (PyObject *)Py_TYPE(entry), *of_conn = (PyObject *)Py_TYPE(conn);

    server->entry_row = slot_of(of_entry, "row");
    server->conn_gathered = server->entry_row ? slot_of(of_conn, "_gathered") : 0;
    return server->conn_gathered ? 0 : -1;
}

static PyObject *
id_in(PyObject *series, uint64_t number)
{
    char name[SERIES_SIZE + NUMBER_SIZE];
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(series, &size);

    if (!text || size > SERIES_SIZE) {
        return PyErr_Format(PyExc_ValueError, "a series of names is at most %d bytes", SERIES_SIZE);
    }
    memcpy(name, text, (size_t)size);
    return PyUnicode_FromStringAndSize(name, write_hexadecimal(name + size, number) - name);
}

/* Have the connection that was made before be this one, and return its entry, borrowed; NULL: an
   error is set.  The entry, its hooks and the connection's ledger have one record and one lease, which
   are changed in place: another part of the same memory, another name. */
static PyObject *
cast(Server *server, PyObject *mould, uint32_t row, uint64_t *words, int fd)
{
    PyObject *entry = PyTuple_GET_ITEM(mould, MOULD_ENTRY), *conn = PyTuple_GET_ITEM(mould, MOULD_CONN);
    PyObject *lease = PyTuple_GET_ITEM(mould, MOULD_LEASE), *name, *peer, *turn, *number;
    Core *core = (Core *)PyTuple_GET_ITEM(mould, MOULD_CORE);
    int one = 1, to = (int)PyLong_AsLong(PyTuple_GET_ITEM(mould, MOULD_FD)), failed;

    if (!server->conn_gathered && find_slots(server, entry, conn) < 0) {
        return NULL;
    }
    if (dup3(fd, to, O_CLOEXEC) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    close(fd);
    if (PyTuple_GET_ITEM(mould, MOULD_NODELAY) == Py_True) {
        setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    PyMemoryView_GET_BUFFER(PyTuple_GET_ITEM(mould, MOULD_RECORD))->buf = words;
    ledger_use(core->ledger, words);
    name = id_in(PyTuple_GET_ITEM(mould, MOULD_SERIES), words[NUMBER]);
    peer = PyUnicode_FromString(server->newcomer.peer);
    turn = PyFloat_FromDouble(row * PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(mould, MOULD_PACE)));
    number = PyLong_FromUnsignedLong(row);
    if (!name || !peer || !turn || !number) {
        Py_XDECREF(name);
        Py_XDECREF(peer);
        Py_XDECREF(turn);
        Py_XDECREF(number);
        return NULL;
    }
    failed = PySet_Add(server->owners, PyTuple_GET_ITEM(mould, MOULD_OWNED)) < 0;
    put(entry, server->entry_row, number);
    Py_DECREF(number);
    replace(lease, server->differing[0], name);
    replace(lease, server->differing[1], peer);
    replace(lease, server->differing[2], turn);
    return failed ? NULL : entry;
}

/* Whether a handler that has returned leaves nothing to do but to send FIN: the peer has ended. */
static int
is_plain_end(const Server *server, PyObject *conn, const Core *core)
{
    const Life *life = core_life(core);

    return life && life->peer_ended && !life->over && !core->client_hello && core_is_plain(core) &&
           *(PyObject **)((char *)conn + server->conn_gathered) == Py_None;
}

/* End a child as `leave` of `_base/_forking.py` does, when its connection has ended as most do. */
static void
leave_at_end(Server *server, Core *core)
{
    static const char *const STREAMS[] = {"stdout", "stderr"};
    int fd = core_descriptor(core);
    uint64_t before;

    if (fd < 0 || ledger_word(core->plain_ledger, ENDED, &before) < 0 ||
        (!before && ledger_store(core->plain_ledger, ENDED, ENDED_CLOSED) < 0)) {
        PyErr_Clear();
        return;
    }
    shutdown(fd, SHUT_WR); /* for whoever else holds it */
    for (size_t each = 0; each < sizeof STREAMS / sizeof *STREAMS; each++) {
        PyObject *stream = PySys_GetObject(STREAMS[each]);
        PyObject *done = stream ? PyObject_CallMethodNoArgs(stream, server->state->names[FLUSH]) : NULL;

        Py_XDECREF(done);
        PyErr_Clear(); /* there is nothing left to tell it to */
    }
    _exit(0);
}

/* In the child: call the handler of a connection that was made before.  The frames and functions that
   the worker has around a handler are some 60 pages, each of which would be copied. */
static PyObject *
call_handler(Server *server, PyObject *mould)
{
    PyObject *conn = PyTuple_GET_ITEM(mould, MOULD_CONN);
    Core *core = (Core *)PyTuple_GET_ITEM(mould, MOULD_CORE);
    PyObject *token = PyContextVar_Set(server->handling, conn), *returned, *kind, *error, *traceback;
    pid_t pid = getpid();

    if (!token) {
        return NULL;
    }
    Py_DECREF(token);
    returned = PyObject_CallOneArg(server->handler, conn);
    if (returned == Py_None && getpid() == pid && is_plain_end(server, conn, core)) {
        leave_at_end(server, core);
    }
    PyErr_Fetch(&kind, &error, &traceback);
    if (kind) {
        PyErr_NormalizeException(&kind, &error, &traceback);
        if (traceback) {
            PyException_SetTraceback(error, traceback);
        }
    }
    return PyObject_CallFunction(server->returned, "OiOO", PyTuple_GET_ITEM(mould, MOULD_ENTRY), (int)pid,
                                 returned ? returned : Py_None, error ? error : Py_None);
}

/* In the child: have the connection served, and end. */
static void
serve(Server *server, uint32_t row, int fd, pid_t parent, const sigset_t *mask)
{
    PyObject *served, *mould = PyList_GET_ITEM(server->moulds, server->newcomer.listener);

    board_served_by(&server->board, row, (uint64_t)getpid());
    if (getppid() != parent) {
        /* The worker died in the middle of the fork.  The keeper, which has reaped it, may have read
           the row before this process stood in it, and given the connection to another.  Had the
           worker been alive here, the keeper would find this process in the row. */
        _exit(0);
    }
    if (mask) {
        pthread_sigmask(SIG_SETMASK, mask, NULL);
    }
    if (mould != Py_None && server->newcomer.peer[0]) {
        PyObject *entry = cast(server, mould, row, board_row(&server->board, row), fd);
        served = !entry          ? NULL
                 : server->alone ? call_handler(server, mould)
                                 : PyObject_CallOneArg(server->serve_made, entry);
    } else {
        served = PyObject_CallFunction(server->serve, "Iiks", row, fd, server->newcomer.listener,
                                       server->newcomer.peer);
    }
    if (!served) {
        PyErr_WriteUnraisable(server->serve);
    }
    _exit(1); /* it does not return */
}

/* Fork as the official way does, with all signals blocked: the parent is to restore `mask`, and finds
   in `code` why there is no process.  -1 with an error set: it was forbidden. */
static pid_t
fork_quietly(Server *server, sigset_t *mask, int *code)
{
    sigset_t all;
    pid_t pid;

    if (PySys_Audit("os.fork", NULL) < 0) {
        return -1;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, mask);
    withheld.threads = (char)is_only_thread();
    withheld.sockets = withheld.threads && is_only_listening(server);
    PyOS_BeforeFork();
    pid = fork();
    *code = errno;
    if (pid == 0) {
        PyOS_AfterFork_Child();
    } else {
        PyOS_AfterFork_Parent();
    }
    withheld.threads = withheld.sockets = 0;
    server->forked += pid > 0;
    return pid;
}

/* Fork a child for an accepted connection.  -1: an error is set. */
static int
fork_for(Server *server, uint32_t row, int fd)
{
    sigset_t mask;
    pid_t parent = getpid(), pid;
    int code, failed = 0;
    PyObject *given;

    pid = fork_quietly(server, &mask, &code);
    if (pid < 0 && PyErr_Occurred()) {
        return -1;
    }
    if (pid == 0) {
        close_children(server);
        let_go(server);
        serve(server, row, fd, parent, &mask);
    }
    if (pid > 0) {
        close(fd); /* before the pidfd: so the process has a descriptor for it */
        board_served_by(&server->board, row, (uint64_t)pid);
        failed = watch(server, (Child){pid, row, -1, -1}) < 0 ? -1 : 0;
        server->running += !failed;
        server->room -= !failed;
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (pid > 0) {
        return failed;
    }
    /* An accepted connection is promised: it waits for a process. */
    server->room--;
    given = PyObject_CallFunction(server->unforked, "Iiksi", row, fd, server->newcomer.listener,
                                  server->newcomer.peer, code);
    Py_XDECREF(given);
    return given ? 1 : -1;
}

/* A packet of a pair, and room for a descriptor that comes with it. */
typedef struct {
    Given given;
    struct iovec part;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message;
} Packet;

static void
prepare_packet(Packet *packet)
{
    memset(packet, 0, sizeof *packet);
    packet->part = (struct iovec){&packet->given, sizeof packet->given};
    packet->message.msg_iov = &packet->part;
    packet->message.msg_iovlen = 1;
    packet->message.msg_control = packet->control.bytes;
    packet->message.msg_controllen = sizeof packet->control.bytes;
}

/* Take the connection that was given: its descriptor, and the newcomer is as it was then; -1: there is
   none. */
static int
take_given(Server *server, int theirs, uint32_t *row)
{
    Packet packet;
    struct cmsghdr *header;
    ssize_t size;
    int fd;

    prepare_packet(&packet);
    size = recvmsg(theirs, &packet.message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    header = CMSG_FIRSTHDR(&packet.message);
    if (size != sizeof packet.given || !header || header->cmsg_type != SCM_RIGHTS) {
        return -1;
    }
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    *row = packet.given.row;
    server->newcomer.listener = packet.given.listener;
    memcpy(server->newcomer.peer, packet.given.peer, PEER_SIZE);
    return fd;
}

static void
waits_no_more(Server *server, Py_ssize_t each)
{
    server->waiting_count--;
    memmove(server->waiting + each, server->waiting + each + 1,
            (size_t)(server->waiting_count - each) * sizeof *server->waiting);
}

/* Give an accepted connection to the child that has waited for longest, and is the most likely to have
   touched all it will; 0: there is none. */
static int
give(Server *server, uint32_t row, int fd)
{
    Packet packet;
    struct cmsghdr *header;
    Child *child;

    if (!server->waiting_count) {
        return 0;
    }
    child = &server->children[server->waiting[0]];
    prepare_packet(&packet);
    packet.given.row = row;
    packet.given.listener = (uint32_t)server->newcomer.listener;
    memcpy(packet.given.peer, server->newcomer.peer, PEER_SIZE);
    header = CMSG_FIRSTHDR(&packet.message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(child->ours, &packet.message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        return 0; /* too many descriptors are on their way */
    }
    board_served_by(&server->board, row, (uint64_t)child->pid);
    close(fd);
    child->row = row;
    waits_no_more(server, 0);
    server->idle--;
    server->running++;
    server->room--;
    return 1;
}

/* Touch what is made, so that it is copied before there is a connection. */
static void
touch(PyObject *mould)
{
    for (Py_ssize_t each = 0; mould != Py_None && each < PyTuple_GET_SIZE(mould); each++) {
        volatile char *made = (volatile char *)PyTuple_GET_ITEM(mould, each);
        *made = *made;
    }
}

/* Serve a connection of the child's own, as far as a peer waits for it, so that what will be written to
   then is copied now.  -1: an error is set. */
static int
serve_trial(Server *server, PyObject *mould)
{
    PyObject *conn = PyTuple_GET_ITEM(mould, MOULD_CONN), *token, *returned = NULL;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (send(pair[1], "\n", 1, MSG_NOSIGNAL) < 0 || shutdown(pair[1], SHUT_WR) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (cast(server, mould, 0, server->trial_words, pair[0])) {
        token = PyContextVar_Set(server->handling, conn);
        returned = token ? PyObject_CallOneArg(server->trial, conn) : NULL;
        Py_XDECREF(token);
        PySet_Discard(server->owners, PyTuple_GET_ITEM(mould, MOULD_OWNED));
    }
    close(pair[1]);
    Py_XDECREF(returned);
    return returned ? 0 : -1;
}

/* In a child that is to wait: let go of what is the worker's, and touch what serving will touch. */
static int
prepare(Server *server)
{
    if (server->alone && PyList_GET_SIZE(server->trials)) {
        int failed = serve_trial(server, PyList_GET_ITEM(server->trials, 0));
        let_go(server);
        return failed;
    }
    PyObject *prepared = PyObject_CallNoArgs(server->prepare);
    Py_XDECREF(prepared);
    return prepared ? 0 : -1;
}

/* In a child that C has forked to wait: wait for a connection, and serve it. */
static void
wait_and_serve(Server *server, int theirs, pid_t parent)
{
    struct pollfd given = {.fd = theirs, .events = POLLIN};
    uint32_t row;
    int fd, ready;

    if (prepare(server) < 0) {
        PyErr_WriteUnraisable(server->prepare);
        _exit(1);
    }
    for (Py_ssize_t each = 0; each < PyList_GET_SIZE(server->moulds); each++) {
        touch(PyList_GET_ITEM(server->moulds, each));
    }
    do {
        /* Nothing is taken by a process that a signal is to stop or to end. */
        Py_BEGIN_ALLOW_THREADS
        ready = poll(&given, 1, -1);
        Py_END_ALLOW_THREADS
    } while (ready < 0 && PyErr_CheckSignals() == 0);
    fd = ready < 0 ? -1 : take_given(server, theirs, &row);
    if (fd < 0) {
        _exit(ready < 0);
    }
    close(theirs);
    serve(server, row, fd, parent, NULL);
}

/* Fork a child that waits.  1: there was no process or descriptor for it; -1: an error is set. */
static int
fork_waiting(Server *server)
{
    int pair[2], code, pidfd;
    sigset_t mask;
    pid_t parent = getpid(), pid;

    if (server->waiting_count == server->waiting_room) {
        int *waiting = PyMem_Resize(server->waiting, int, server->waiting_room + 16);
        if (!waiting) {
            PyErr_NoMemory();
            return -1;
        }
        server->waiting = waiting;
        server->waiting_room += 16;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return 1;
    }
    pid = fork_quietly(server, &mask, &code);
    if (pid == 0) {
        close_children(server);
        close(pair[0]);
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
        wait_and_serve(server, pair[1], parent);
    }
    if (pid < 0) {
        close(pair[0]);
        close(pair[1]);
        if (PyErr_Occurred()) {
            return -1;
        }
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
        return 1;
    }
    pidfd = watch(server, (Child){pid, NONE, pair[0], pair[1]});
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (pidfd < 0) {
        close(pair[0]);
        close(pair[1]);
        return -1;
    }
    server->waiting[server->waiting_count++] = pidfd;
    server->idle++;
    return 0;
}

/* Have more children wait, if it is time to.  -1: an error is set. */
static int
refill(Server *server)
{
    double now = core_now(), until = now + AT_ONCE;
    int failed = 0;

    if (now < server->refilled_from) {
        return 0;
    }
    while (!failed && now < until && server->waiting_count < server->spare) {
        failed = fork_waiting(server);
        now = core_now();
    }
    server->refilled_from = failed > 0 ? now + SLOWLY : 0;
    return failed < 0 ? -1 : 0;
}

/* Serve a connection that has its row.  1: look at all else first; -1: an error is set. */
static int
begin(Server *server, uint32_t row, int fd)
{
    int given = give(server, row, fd);

    if (server->spare > 0 && server->refilled_from < core_now() + QUIET) {
        server->refilled_from = given ? core_now() + QUIET : 0;
    }
    return given ? 0 : fork_for(server, row, fd);
}

/* Whether accept(2) tells of the system, not of the one connection or the listener. */
static int
is_exhausted(int code)
{
    return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM;
}

/* Accept from a listener and fork.  1: look at all else first; -1: an error is set. */
static int
accept_from(Server *server, Py_ssize_t door)
{
    Newcomer *newcomer = &server->newcomer;
    int fd = board_accept(server->doors[door], newcomer->peer);
    int64_t row;

    if (fd < 0) {
        int code = errno;
        if (is_exhausted(code)) {
            PyObject *told = PyObject_CallFunction(server->exhausted, "i", code);
            Py_XDECREF(told);
            return told ? 1 : -1;
        }
        if (code == EBADF || code == EINVAL || code == ENOTSOCK) {
            errno = code;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        return 0; /* another process took it, or the peer has given up */
    }
    row = take_row(server);
    if (row < 0) {
        close(fd);
        return row == -1 ? 0 : -1;
    }
    newcomer->number++;
    newcomer->listener = (unsigned long)door;
    board_enter(&server->board, (uint32_t)row, newcomer);
    return begin(server, (uint32_t)row, fd);
}

/* Forget a child that has ended while it waited, or when it was to leave. */
static int
has_left(Server *server, int pidfd, pid_t pid, int code, int status)
{
    PyObject *told;

    server->idle--;
    for (Py_ssize_t each = 0; each < server->waiting_count; each++) {
        if (server->waiting[each] == pidfd) {
            waits_no_more(server, each);
            server->refilled_from = core_now() + SLOWLY;
            told = PyObject_CallFunction(server->died, "iii", (int)pid, code, status);
            Py_XDECREF(told);
            return told ? 0 : -1;
        }
    }
    return 1; /* the worker may have waited for it alone */
}

/* A child has ended.  1: look at all else first; -1: an error is set. */
static int
reap(Server *server, int pidfd)
{
    Child child = server->children[pidfd];
    siginfo_t ended = {.si_pid = 0};
    int failed, known = waitid(P_PIDFD, (id_t)pidfd, &ended, WEXITED | WNOHANG) == 0;
    int code = known ? ended.si_code : 0, status = known ? ended.si_status : -1, untaken = -1;
    PyObject *told;
    uint32_t row;

    if (known && !ended.si_pid) {
        return 0;
    }
    /* A child that inherited the pidfd keeps it in the epoll. */
    epoll_ctl(server->epoll, EPOLL_CTL_DEL, pidfd, NULL);
    close(pidfd);
    /* Where the program has reaped it nobody knows how it ended, but the row does. */
    failed = known && (ended.si_code != CLD_EXITED || ended.si_status != 0);
    if (child.row != NONE && child.theirs >= 0 && (failed || !known)) {
        untaken = take_given(server, child.theirs, &row);
    }
    close_pair(&child);
    server->children[pidfd].pid = 0;
    if (child.row == NONE) {
        return has_left(server, pidfd, child.pid, code, status);
    }
    server->running--;
    if (untaken >= 0) {
        /* It has died before it saw the connection: nobody has read anything of it. */
        server->room++;
        board_served_by(&server->board, row, server->newcomer.pid);
        return begin(server, row, untaken);
    }
    if (board_release(&server->board, child.row, failed)) {
        server->room++;
        return keep_row(server, child.row) < 0 ? -1 : 0;
    }
    told = PyObject_CallFunction(server->ended, "Iiii", child.row, child.pid, code, status);
    Py_XDECREF(told);
    return told ? 1 : -1;
}

static Py_ssize_t
door_of(const Server *server, int fd)
{
    for (Py_ssize_t door = 0; door < server->door_count; door++) {
        if (server->doors[door] == fd) {
            return door;
        }
    }
    return -1;
}

/* Accept, for an event of a listener, where there is room.  1: go back to Python, which no longer
   watches the listeners when this was the last: who is woken for one wakes nobody else. */
static int
open_door(Server *server, const struct epoll_event *event)
{
    Py_ssize_t door = door_of(server, event->data.fd);
    int back = 0;

    if (door >= 0 && server->room > 0) {
        back = accept_from(server, door);
    }
    return back ? back : door >= 0 && server->room <= 0;
}

/* Do what an event asks for that is no listener's; what is not the server's is added to `others`.
   1: go back to Python. */
static int
obey(Server *server, const struct epoll_event *event, PyObject *others)
{
    int fd = event->data.fd;
    PyObject *found;
    int failed;

    if (fd < server->children_size && server->children[fd].pid) {
        int full = server->room <= 0;
        int back = reap(server, fd);
        return back ? back : full;
    }
    if (door_of(server, fd) >= 0) {
        return 0;
    }
    found = Py_BuildValue("iI", fd, event->events);
    failed = found ? PyList_Append(others, found) : -1;
    Py_XDECREF(found);
    return failed < 0 ? -1 : 1;
}

/* Only for a rehearsal: as a child does with what it has accepted. */
static PyObject *
Server_cast(Server *server, PyObject *args)
{
    PyObject *mould, *entry;
    unsigned int row;
    int fd;

    if (!PyArg_ParseTuple(args, "O!Ii", &PyTuple_Type, &mould, &row, &fd)) {
        return NULL;
    }
    strcpy(server->newcomer.peer, "nobody");
    entry = cast(server, mould, row, board_row(&server->board, row), fd);
    Py_XINCREF(entry);
    return entry;
}

/* -1: an error is set. */
static int
tell_settled(Server *server)
{
    PyObject *settled = server->settled, *told;

    server->settled = NULL;
    told = PyObject_CallNoArgs(settled);
    Py_DECREF(settled);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

static PyObject *
Server_poll(Server *server, PyObject *args)
{
    struct epoll_event events[EVENTS];
    PyObject *timeout, *others;
    double moment = 0;
    Py_ssize_t room;
    int count, code, back = 0;

    if (!PyArg_ParseTuple(args, "Onpn", &timeout, &room, &server->alone, &server->spare)) {
        return NULL;
    }
    if (timeout != Py_None) {
        moment = PyFloat_AsDouble(timeout);
        if (moment == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        moment += core_now();
    }
    others = PyList_New(0);
    if (!others) {
        return NULL;
    }
    server->room = room;
    while (!back) {
        int lacks = server->waiting_count < server->spare;
        double until = lacks && (timeout == Py_None || server->refilled_from < moment)
                           ? server->refilled_from
                           : moment;
        int milliseconds = timeout == Py_None && !lacks ? -1 : milliseconds_until(until);
        if (server->settled && server->forked >= SETTLED && tell_settled(server) < 0) {
            goto failed;
        }
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(server->epoll, events, EVENTS, milliseconds);
        code = errno;
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            goto failed;
        }
        if (count < 0 && code != EINTR) {
            errno = code;
            PyErr_SetFromErrno(PyExc_OSError);
            goto failed;
        }
        if (count == 0 && lacks && refill(server) < 0) {
            goto failed;
        }
        back = count == 0 && timeout != Py_None && core_now() >= moment;
        for (int each = 0; each < count; each++) {
            int said = obey(server, &events[each], others);
            if (said < 0) {
                goto failed;
            }
            back |= said;
        }
        /* After what the keeper may have said: nothing is accepted that it has forbidden. */
        for (int each = 0; !back && each < count; each++) {
            int said = open_door(server, &events[each]);
            if (said < 0) {
                goto failed;
            }
            back = said;
        }
    }
    return others;
failed:
    Py_DECREF(others);
    return NULL;
}

static PyObject *
Server_kill(Server *server, PyObject *Py_UNUSED(ignored))
{
    for (int pidfd = 0; pidfd < server->children_size; pidfd++) {
        if (server->children[pidfd].pid) {
            syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
Server_dismiss(Server *server, PyObject *Py_UNUSED(ignored))
{
    while (server->waiting_count) {
        close_pair(&server->children[server->waiting[--server->waiting_count]]);
    }
    Py_RETURN_NONE;
}

static PyObject *
Server_shut(Server *server, PyObject *Py_UNUSED(ignored))
{
    server->door_count = 0; /* their numbers will be others' */
    Py_RETURN_NONE;
}

static PyObject *
Server_forget(Server *server, PyObject *Py_UNUSED(ignored))
{
    close_children(server);
    Py_RETURN_NONE;
}

static int
Server_init(Server *server, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"epoll", "board", "doors", "boot", "serial", "claim", "serve", "ended",
                            "unforked", "exhausted", "known", "closes",
                            "moulds", "serve_made", "handler", "differing", "waiting", "settled", NULL};
    PyObject *memory, *doors;
    unsigned long long boot, serial;

    if (server->board.words) {
        PyErr_SetString(PyExc_RuntimeError, "a fork server is set up once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords,
                                     "iOO!KKOOOOO(O!O!O!)O!O!O(OOO)(iii)(O!OOO)O", names,
                                     &server->epoll, &memory,
                                     &PyList_Type, &doors, &boot, &serial, &server->claim,
                                     &server->serve, &server->ended, &server->unforked,
                                     &server->exhausted, &PySet_Type, &server->owners,
                                     &PyList_Type, &server->crews, &PySet_Type, &server->guarded,
                                     &PyList_Type, &server->closes, &PyList_Type,
                                     &server->moulds, &server->serve_made, &server->handling,
                                     &server->handler, &server->returned, &server->differing[0],
                                     &server->differing[1], &server->differing[2],
                                     &PyList_Type, &server->trials, &server->trial,
                                     &server->prepare, &server->died, &server->settled)) {
        server->claim = server->serve = server->ended = NULL;
        server->unforked = server->exhausted = NULL;
        server->owners = server->crews = server->guarded = server->closes = NULL;
        server->moulds = server->serve_made = NULL;
        server->handling = server->handler = server->returned = NULL;
        server->trials = server->trial = server->prepare = server->died = NULL;
        server->settled = NULL;
        return -1;
    }
    server->state = PyType_GetModuleState(Py_TYPE(server));
    Py_INCREF(server->claim);
    Py_INCREF(server->serve);
    Py_INCREF(server->ended);
    Py_INCREF(server->unforked);
    Py_INCREF(server->exhausted);
    Py_INCREF(server->owners);
    Py_INCREF(server->crews);
    Py_INCREF(server->guarded);
    Py_INCREF(server->closes);
    Py_INCREF(server->moulds);
    Py_INCREF(server->serve_made);
    Py_INCREF(server->handling);
    Py_INCREF(server->handler);
    Py_INCREF(server->returned);
    Py_INCREF(server->trials);
    Py_INCREF(server->trial);
    Py_INCREF(server->prepare);
    Py_INCREF(server->died);
    server->settled = server->settled == Py_None ? NULL : Py_NewRef(server->settled);
    server->door_count = PyList_GET_SIZE(doors);
    server->doors = PyMem_New(int, server->door_count ? server->door_count : 1);
    if (!server->doors) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t door = 0; door < server->door_count; door++) {
        server->doors[door] = (int)PyLong_AsLong(PyList_GET_ITEM(doors, door));
        if (PyErr_Occurred()) {
            return -1;
        }
    }
    server->newcomer =
        (Newcomer){.boot = boot, .minted_by = serial, .pid = (uint64_t)getpid(), .epoch = 1};
    return board_map(&server->board, memory);
}

static int
Server_traverse(Server *server, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(server));
    Py_VISIT(server->claim);
    Py_VISIT(server->serve);
    Py_VISIT(server->ended);
    Py_VISIT(server->unforked);
    Py_VISIT(server->exhausted);
    Py_VISIT(server->owners);
    Py_VISIT(server->crews);
    Py_VISIT(server->guarded);
    Py_VISIT(server->closes);
    Py_VISIT(server->moulds);
    Py_VISIT(server->serve_made);
    Py_VISIT(server->handling);
    Py_VISIT(server->handler);
    Py_VISIT(server->returned);
    Py_VISIT(server->trials);
    Py_VISIT(server->trial);
    Py_VISIT(server->prepare);
    Py_VISIT(server->died);
    Py_VISIT(server->settled);
    return 0;
}

static int
Server_clear(Server *server)
{
    Py_CLEAR(server->claim);
    Py_CLEAR(server->serve);
    Py_CLEAR(server->ended);
    Py_CLEAR(server->unforked);
    Py_CLEAR(server->exhausted);
    Py_CLEAR(server->owners);
    Py_CLEAR(server->crews);
    Py_CLEAR(server->guarded);
    Py_CLEAR(server->closes);
    Py_CLEAR(server->moulds);
    Py_CLEAR(server->serve_made);
    Py_CLEAR(server->handling);
    Py_CLEAR(server->handler);
    Py_CLEAR(server->returned);
    Py_CLEAR(server->trials);
    Py_CLEAR(server->trial);
    Py_CLEAR(server->prepare);
    Py_CLEAR(server->died);
    Py_CLEAR(server->settled);
    return 0;
}

static void
Server_dealloc(Server *server)
{
    PyTypeObject *type = Py_TYPE(server);

    PyObject_GC_UnTrack(server);
    Server_clear(server);
    if (server->board.words) {
        PyBuffer_Release(&server->board.view);
    }
    PyMem_Free(server->doors);
    PyMem_Free(server->children);
    PyMem_Free(server->rows);
    PyMem_Free(server->waiting);
    type->tp_free(server);
    Py_DECREF(type);
}

static PyMemberDef members[] = {
    {"running", T_PYSSIZET, offsetof(Server, running), READONLY,
     "How many children serve a connection."},
    {"idle", T_PYSSIZET, offsetof(Server, idle), READONLY, "How many children have none."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"poll", (PyCFunction)Server_poll, METH_VARARGS,
     "Serve until something else is ready, as `select.epoll.poll` tells it, or to be looked at."},
    {"cast", (PyCFunction)Server_cast, METH_VARARGS,
     "Have a connection that was made before be that of a row and a descriptor; for a rehearsal."},
    {"kill", (PyCFunction)Server_kill, METH_NOARGS, "End every child at once, by SIGKILL."},
    {"dismiss", (PyCFunction)Server_dismiss, METH_NOARGS, "Have the children that wait leave."},
    {"shut", (PyCFunction)Server_shut, METH_NOARGS,
     "Accept no more: the listeners have been closed."},
    {"forget", (PyCFunction)Server_forget, METH_NOARGS,
     "Let go of the children's pidfds, in a child that was forked otherwise."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Server_init},
    {Py_tp_dealloc, Server_dealloc},
    {Py_tp_traverse, Server_traverse},
    {Py_tp_clear, Server_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_doc, "The fork server; its twin is `_worker._fork.ForkModel` with `Children`."},
    {0, NULL},
};

PyType_Spec fork_server_spec = {
    .name = "socketkeep._native._core.ForkServer",
    .basicsize = sizeof(Server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
