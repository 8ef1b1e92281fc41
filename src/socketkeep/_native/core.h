/* What the files of the compiled core tell each other. */

#ifndef SOCKETKEEP_CORE_H
#define SOCKETKEEP_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

/* What the files tell each other is nobody else's: a call among them need not go by a table. */
#pragma GCC visibility push(hidden)

/* Attributes that are asked for at each connection; their names stand in module.c. */
enum {
    SOCK, RECORD, SHELF, STATE, RESUMABLE, UNREAD, DIRECT, PUT, SLOW_INIT, MAKE_LIFE,
    WAITER, WATCH, ON_READABLE, SEND_FAILED, AT_END, RAISE, FILENO,
    MOMENT, WAITED, CLOSE_SOCKET, REPLAY_LIMIT, TELLS_END,
    READ_BYTES, WRITE, UNWRAP, CUT, RESET_WORD, TRUNCATED_WORD, END_IN, READ_FAILED, REFUSE,
    WORKER_ENDED, FINISH_OUT,
    CLOSED_STATE, HOOKS, REACTOR, CANCEL_TIMERS,
    END_ON, FLUSH, GIVE_WAY, COMMIT, RECEIVE,
    NAMES
};

/* So many receives in a row may wait for nothing, and one that brings so many bytes is as all of them. */
enum { HELPINGS = 8, LARGE_HELPING = 16384 };

/* `PAYLOAD_LIMIT` of `_base/_passing.py`: the longest packet but for messages of users. */
enum { PACKET_SIZE = 32 * 1024 + 1 };

/* How many awaitables are kept to be used again. */
enum { SPARE = 32 };

/* What the module owns. */
typedef struct {
    PyTypeObject *buffer;
    PyTypeObject *ledger;
    PyTypeObject *core;
    PyTypeObject *poller;
    PyTypeObject *orders;
    PyTypeObject *claim;
    PyTypeObject *life;
    PyTypeObject *waiter;
    PyTypeObject *reactor;
    PyTypeObject *verb;
    PyTypeObject *awaitable;
    PyTypeObject *line_taker;
    PyTypeObject *fork_server;
    PyTypeObject *rows;
    PyTypeObject *shelf;
    PyTypeObject *iteration;
    PyTypeObject *async_iteration;
    PyTypeObject *caster;
    PyTypeObject *brief_lease;
    PyTypeObject *runner;
    PyTypeObject *serving;
    PyTypeObject *flow;
    PyTypeObject *relay_loop;
    PyObject *plaintext;   /* where each flow's plaintext passes through, and how much at most */
    PyObject *record_size;
    PyObject *spare[SPARE]; /* without references to anything, not tracked */
    int spares;
    PyObject *encode; /* what encodes a state, NULL before the first */
    PyTypeObject *sockets; /* a class whose `fileno` is the C function that follows; NULL before the first */
    PyCFunction fileno;
    PyTypeObject *known_core; /* a class that is one of cores, and one that is one of lives; NULL before */
    PyTypeObject *known_life;
    PyObject *callback_names; /* those of the arguments of `add_done_callback`, as tasks give them */
    PyObject *names[NAMES];
    char packet[PACKET_SIZE]; /* last: what is not used of it is not touched */
} State;

extern struct PyModuleDef core_module;

/* The monotonic clock, in seconds. */
static inline double
core_now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The same, in nanoseconds. */
static inline uint64_t
core_now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* What a method returns that has nothing to say: None, or NULL where an error is set. */
static inline PyObject *
core_done(int failed)
{
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* descriptors.c */
PyObject *core_look(PyObject *module, PyObject *args);

/* buffer.c */
typedef struct {
    PyObject_HEAD
    char *data; /* dropped | retained, `taken` bytes of it | unread */
    size_t room;
    size_t pos; /* where the unread bytes begin */
    size_t end;
    size_t taken; /* since the commit, or the chunk's beginning where nothing is retained */
    size_t limit;
    size_t scanned; /* from where to look on for `separator` */
    PyObject *separator;
    char retain;
    char dropped;
    char gathered; /* the unread bytes came in more than one piece */
} Buffer;

extern PyType_Spec buffer_spec;

/* New, of that type; `retain` and `limit` as its arguments in Python. */
Buffer *buffer_of(PyTypeObject *type, int retain, Py_ssize_t limit);

/* Make room for `size` bytes behind those there are; they are at the address returned.  NULL: there
   is no memory, and MemoryError is set. */
char *buffer_prepare(Buffer *buffer, size_t size);
/* Have `size` bytes that were written there be unread. */
void buffer_add(Buffer *buffer, size_t size);
/* Give the memory back if nothing in it counts. */
void buffer_tidy(Buffer *buffer);
int buffer_feed(Buffer *buffer, const char *data, size_t size);
int buffer_pass_by(Buffer *buffer, const char *data, size_t size);
/* New `bytes`, of the first unread ones, of which there are so many. */
PyObject *buffer_take(Buffer *buffer, size_t size);
void buffer_commit(Buffer *buffer);
int buffer_untouched(const Buffer *buffer);
/* Take a line, as the method does; NULL without an error: there is none within the bound. */
PyObject *buffer_take_line(Buffer *buffer, int keepends, size_t bound);

/* ledger.c */
typedef struct {
    PyObject_HEAD
    PyObject *record; /* NULL: it is this object itself */
    PyObject *memory; /* what has the words and keeps them in their place, NULL where there are none */
    uint64_t *words;  /* of the record, NULL where it is no memory */
    long long pushes;
    long long doubtful;
    char read;
    char sent;
    char bound;
    char disputed;
    char again;
} Ledger;

extern PyType_Spec ledger_spec;

/* The words of `_stream/_record.py`. */
enum {
    STATUS = 4, WAITING = 5, BYTES_IN = 6, BYTES_OUT = 7, ACTIVE_AT = 9, ENDED = 11, WORDS = 16
};

/* New, of that type, with that record. */
Ledger *ledger_of(PyTypeObject *type, PyObject *record);
/* New, and itself the record: of words that the memory keeps in their place. */
Ledger *ledger_at(PyTypeObject *type, PyObject *memory, uint64_t *words);
/* The record, as Python has it. */
PyObject *ledger_record(const Ledger *ledger);
/* A word of the record; -1: an error is set, and `*word` is not. */
int ledger_word(Ledger *ledger, int index, uint64_t *word);
/* Have the record say that something is done now. */
int ledger_active(Ledger *ledger);
int ledger_reading(Ledger *ledger);
int ledger_read_nothing(Ledger *ledger);
int ledger_sending(Ledger *ledger);
int ledger_commit(Ledger *ledger, int unread, long long left_kernel);
/* Have a counter of the record be this, and note that bytes have passed now. */
int ledger_count(Ledger *ledger, int word, uint64_t count);

/* A word of a record that is no memory is this from here on. */
int ledger_set_item(Ledger *ledger, int word, uint64_t value);

/* A word of the record is this from here on. */
static inline int
ledger_store(Ledger *ledger, int word, uint64_t value)
{
    if (ledger->words) {
        *(volatile uint64_t *)&ledger->words[word] = value;
        return 0;
    }
    return ledger_set_item(ledger, word, value);
}

/* Have the words be at another place of the same memory. */
void ledger_use(PyObject *ledger, uint64_t *words);

/* passing.c */
PyObject *passing_send(PyObject *module, PyObject *const *args, Py_ssize_t given);
PyObject *passing_receive(PyObject *module, PyObject *const *args, Py_ssize_t given);

/* door.c */
PyObject *door_accept(PyObject *module, PyObject *listener);

/* What `door_take` returns where there is no descriptor; FAILED: an error is set. */
enum { DOOR_NOBODY = -1, DOOR_FAILED = -2 };

/* Accept, without a wait. */
int door_take(int listener, struct sockaddr_storage *address, socklen_t *size);
/* A descriptor, which is closed when that fails, and its peer, for Python. */
PyObject *door_told(int fd, const struct sockaddr_storage *address, socklen_t size);

/* parcel.c */
PyObject *parcel_read(PyObject *module, PyObject *const *args, Py_ssize_t given);
PyObject *parcel_attach(PyObject *module, PyObject *const *args, Py_ssize_t given);
PyObject *parcel_given(PyObject *module, PyObject *const *args, Py_ssize_t given);
PyObject *parcel_pack(PyObject *module, PyObject *const *args, Py_ssize_t given);

/* inlet.c */

/* `HEADER_LIMIT` of `_base/_admission.py`. */
enum { HEADER_MOST = 8192 };

/* Accept what an edge has passed on, without a wait; as `door_take`. */
int inlet_take(int inlet);
/* Look at the header that came before all else, and whose it says the connection is: its size.
   0: it is not whole, or says that in a way which is for Python. */
Py_ssize_t inlet_header(int fd, unsigned char header[HEADER_MOST], struct sockaddr_storage *source);
/* Take the header that was looked at; -1: it is not there any more, and an error is set. */
int inlet_take_header(int fd, unsigned char header[HEADER_MOST], Py_ssize_t size);
PyObject *inlet_pass_on(PyObject *module, PyObject *args);
PyObject *inlet_ends_of(PyObject *module, PyObject *sock);

/* shelf.c */

/* `STATE_LIMIT` of `_stream/_committed.py`. */
enum { STATE_LIMIT = 65536 };

extern PyType_Spec shelf_spec;

/* Put a state, None for none, as the method of a shelf of that type; -1: an error is set. */
int shelf_put(PyObject *shelf, PyObject *state);

/* snapshot.c */
PyObject *core_take_snapshot(PyObject *module, PyObject *args);

/* poller.c */
typedef struct {
    PyObject_HEAD
    Py_buffer view; /* of the scoreboard's header */
    const volatile uint64_t *words;
    int wake_fd;
} Orders;

extern PyType_Spec poller_spec;
extern PyType_Spec orders_spec;

/* Whether no other thread may wait for the interpreter's lock. */
int is_only_thread(void);

/* READY and WOKEN of `_stream/_waiting.py`. */
enum { READY = 1, WOKEN = 2 };

/* RETIRE_HOW and CROWDED of `_wire/_scoreboard.py`: the words of its header that are not 0 once there is an
   order, and while connections wait for a seat. */
enum { ORDERED = 10, CROWDED = 13 };

static inline int
orders_given(const Orders *orders)
{
    return orders->words[ORDERED] != 0;
}

static inline int
orders_crowded(const Orders *orders)
{
    return orders->words[CROWDED] != 0;
}

/* From now to a moment of the monotonic clock, as poll(2) takes it. */
int milliseconds_until(double moment);
/* Wait for so many milliseconds, -1 for as long as it takes; what a signal's handler raises ends it.
   `moment` is when that time is over.  READY, WOKEN, their sum, or 0; -1: an error is set. */
int wait_for(struct pollfd *watched, nfds_t count, int milliseconds, double moment);

/* claim.c */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock post; /* what is waited at, NULL before anybody has waited */
    int waiters;
    char held;
    char posted; /* one of those who wait has been woken, and has not noticed yet */
} Claim;

extern PyType_Spec claim_spec;

/* Take it if it is free; whether it was. */
int claim_take(Claim *claim);
void claim_release(Claim *claim);

/* life.c */
typedef struct {
    PyObject_HEAD
    PyObject *end;   /* the state that is an end, NULL before */
    PyObject *error; /* what it was ended by, NULL for none */
    char over;
    char peer_ended;
    char sends;
    char write_ended;
} Life;

extern PyType_Spec life_spec;

/* New, of that type, which has no more than what is here. */
Life *new_life(PyTypeObject *type);

/* waiter.c */
typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *resume;
    PyObject *context;
    PyObject *cancelled;
    double since;
    int came;
    int unwaited;
    char pending;
    char blocking;
    char watching;
    char ordered;
    char claimed;
    char tended;
} Waiter;

extern PyType_Spec waiter_spec;

/* New, of that type. */
Waiter *waiter_of(PyTypeObject *type, PyObject *loop);

/* Resume the task that waits, now. */
int waiter_resume(Waiter *waiter, PyObject *outcome);

/* reactor.c */
typedef struct reactor Reactor;

extern PyType_Spec reactor_spec;

/* The reactor of an async connection, where it is one of these; NULL without an error: it is not. */
Reactor *reactor_of(const State *state, PyObject *conn);
/* Resume what the waiter has whenever the descriptor is readable; -1: an error is set. */
int reactor_watch(Reactor *reactor, int fd, Waiter *waiter);
void reactor_unwatch(Reactor *reactor, int fd, Waiter *waiter);

/* flow.c */
/* Bytes that wait: `size` of them, from `at` on. */
typedef struct {
    char *data; /* NULL: none */
    Py_ssize_t at;
    Py_ssize_t size;
} Held;

/* The TLS itself; both are NULL where it is reached by the methods of Python's objects. */
typedef struct {
    void *ssl; /* that object's */
    void *bio;
} Tls;

typedef struct {
    PyObject_HEAD
    PyObject *sock;
    PyObject *plain;
    PyObject *object;   /* the TLS, as Python has it */
    PyObject *incoming; /* its buffers, and two of its methods; NULL where OpenSSL itself is called */
    PyObject *outgoing;
    PyObject *read;
    PyObject *write;
    State *state; /* NULL before it has begun */
    Tls tls;
    const char *fresh; /* ciphertext that has come in this turn and that OpenSSL has not taken */
    Py_ssize_t fresh_size;
    Held rest;   /* ciphertext that came before */
    Held left;   /* plaintext that the worker's end has no room for */
    Held cipher; /* ciphertext that the client's has no room for */
    unsigned long long taken;
    unsigned long long given;
    Py_ssize_t missing; /* of the body of the record that comes */
    Py_ssize_t tail;    /* how much of it has come */
    int client_fd;      /* -1 once it is closed */
    int plain_fd;
    int epoll; /* of the loop that carries it, which is to tell of room on its plain end; -1: it does */
    int whole; /* how many records that have come are whole */
    int begun; /* how many bytes of a header have come */
    unsigned char header[5];
    char framed; /* the lengths make sense */
    char lost;   /* nothing can be sent to the client */
    char in_ended;
    char out_ended;
    char notified;
    char deserted;
    char client_says;
    char client_ends;
    char client_takes;
    char plain_says;
    char plain_ends;
    char plain_takes;
} Flow;

extern PyType_Spec flow_spec;

/* Make what all flows share; -1: an error is set. */
int flow_prepare(State *state);
/* Have a loop carry it; -1: an error is set.  told: the loop is told when its plain end has room. */
int flow_carry(Flow *flow, int epoll, int told);
/* Note what one of its descriptors is ready for. */
void flow_note(Flow *flow, int fd, uint32_t events);
/* Move what can be moved: whether there is more; -1: an error is set. */
int flow_go_on(Flow *flow);
/* Whether nothing passes any more. */
int flow_is_over(const Flow *flow);
/* For OpenSSL, without the global lock: take ciphertext that has come; how much that was. */
Py_ssize_t flow_take_cipher(Flow *flow, char *data, Py_ssize_t size);
/* The same: send ciphertext, or hold it; -1: the client is lost. */
int flow_send_cipher(Flow *flow, const char *data, Py_ssize_t size);

/* openssl.c */
enum { TLS_WANTS_MORE = 0, TLS_HAS_ENDED = -1, TLS_HAS_FAILED = -2 };

/* Of the module: have the flows to come call OpenSSL itself; or not, by a place below 0. */
PyObject *openssl_speak_with(PyObject *module, PyObject *args);
int openssl_is_spoken_with(void);
/* Have an object of `ssl` read from a flow and write to it; -1: an error is set. */
int openssl_begin(Tls *tls, PyObject *object, Flow *flow);
/* The flow ends, whatever becomes of the object. */
void openssl_end(Tls *tls);
/* Read plaintext: how much, or one of the words above. */
Py_ssize_t openssl_read(const Tls *tls, char *data, int size);
/* Write plaintext, all of it; -1: that has failed. */
int openssl_write(const Tls *tls, const char *data, Py_ssize_t size);
/* Send the close_notify. */
void openssl_notify(const Tls *tls);

/* relay_loop.c */
/* Have a loop tell of all that a descriptor is ready for, or of all but room. */
int relay_loop_watch(int epoll, int fd, int room);
extern PyType_Spec relay_loop_spec;

/* stream_core.c */
typedef struct {
    PyObject_HEAD
    PyObject *maker;     /* the caster that makes socket and transport when they are asked for; NULL: they are made */
    PyObject *sock;      /* NULL before it is asked for */
    PyObject *transport; /* likewise */
    PyObject *buffer;
    PyObject *ledger;
    PyObject *life;
    PyObject *committed;
    PyObject *failure;
    PyObject *lease;
    PyObject *shelf;
    State *state;     /* NULL before it is set up */
    PyObject *source; /* for the slow way: what is received from; NULL: the socket */
    uint64_t came;    /* how many bytes, as the record says */
    uint64_t gone;
    Py_ssize_t client_hello; /* as `Core` of `_stream/_core.py` has it */
    Buffer *plain_buffer; /* `buffer`, where it is one of C's; borrowed from it */
    Ledger *plain_ledger; /* likewise */
    Py_ssize_t receives;  /* since the beginning; -1: no commit is missing */
    int fd;               /* the descriptor, while no socket has it; -1 once it is closed */
    uint32_t asked_until; /* until then, in milliseconds, `moment` is how many a sync receive may wait */
    short unwaited;       /* receives in a row of a sync connection that waited for nothing */
    unsigned char missed; /* and attempts in a row that found nothing */
    unsigned char moment; /* 0: Python is to say */
    char retains;
    char much;   /* the last receive brought much */
    char direct; /* the transport is the socket itself */
    char tells_end; /* and an EOF there may stand for another end */
} Core;

extern PyType_Spec stream_core_spec;

/* `NOTHING`, `ARRIVED`, `EOF` and `FAILED` of `_stream/_core.py`. */
enum { NOTHING = 0, ARRIVED = 1, EOF_CAME = 2, FAILED = 3 };

/* `CHUNK` and `LARGE_CHUNK`. */
enum { CHUNK = 65536, LARGE_CHUNK = 262144 };

/* Whether the normal course of things can be served in C. */
static inline int
core_is_plain(const Core *core)
{
    return core->direct && core->plain_buffer && core->plain_ledger;
}

/* Whether it is of that type, where its class is not the one that is known to be. */
int is_of_type(PyObject *object, PyTypeObject *type, PyTypeObject **known);

/* Whether it is a core. */
static inline int
is_core(State *state, PyObject *object)
{
    return Py_TYPE(object) == state->known_core || is_of_type(object, state->core, &state->known_core);
}
/* The descriptor, -1 once it is closed. */
int core_descriptor(Core *core);
/* As the methods of the core, which is plain: what came, or -1 with an error set. */
int core_receive(Core *core, size_t most, PyObject **data);
int core_fill(Core *core, size_t size);
/* How many bytes the kernel has taken; -1: an error is set. */
Py_ssize_t core_send(Core *core, const char *data, Py_ssize_t size, int push);

/* As the method of the core, which is plain; -1: an error is set. */
int core_commit(Core *core, PyObject *packed);

/* What a send has to do with what is gathered, `held`, None where nothing is: KEPT, it is kept back, too;
   GOES_OUT, nothing goes before it; BEHIND, something does.  KEEP_FAILED: an error is set. */
enum { KEPT, GOES_OUT, BEHIND, KEEP_FAILED };
int core_keep_back(const Core *core, PyObject *held, PyObject *data, int may);
/* How much is gathered. */
static inline Py_ssize_t
core_held(PyObject *held)
{
    return held != Py_None && PyByteArray_Check(held) ? PyByteArray_GET_SIZE(held) : 0;
}

/* Send what is gathered, of which there is some, where nobody else sends.  1: all of it is out, 0: some is
   left; -1: an error is set, and none is. */
int core_send_held(Core *core, PyObject *held);

/* End the connection, whose life and descriptor these are, and which is not over: FIN goes out, and what has
   come is discarded.  1: the peer has ended too, and the descriptor is closed, 0: not; -1: an error is set. */
int core_end(Core *core, Life *life, int fd);

/* A new core, as one that is plain and on which nothing was received, sent or committed.  It has the
   descriptor from there on, also where that fails. */
PyObject *core_like(const Core *pattern, PyObject *maker, int fd, PyObject *lease, Ledger *ledger);
/* Have such a core go on from what the last worker has left: the counts of its record, a state, and where
   that is put, None for neither. */
void core_go_on(Core *core, uint64_t came, uint64_t gone, PyObject *committed, PyObject *shelf);

/* Where it is in its life, NULL before it is known, and where it is no object of C's. */
static inline Life *
core_life(const Core *core)
{
    PyObject *life = core->life;
    State *state = core->state;

    if (!life || (Py_TYPE(life) != state->known_life && !is_of_type(life, state->life, &state->known_life))) {
        return NULL;
    }
    return (Life *)life;
}

/* Whether it is over, and whether it sends: of one whose life is not known it is for Python to say. */
static inline int
core_is_over(const Core *core)
{
    const Life *life = core_life(core);

    return !life || life->over;
}

static inline int
core_sends(const Core *core)
{
    const Life *life = core_life(core);

    return life && life->sends;
}

/* Whether a receive has met an error that none has raised yet. */
static inline int
core_failed(const Core *core)
{
    return core->failure && core->failure != Py_None;
}

/* iteration.c */
extern PyType_Spec iteration_spec;
extern PyType_Spec async_iteration_spec;

/* messages.c */
extern PyType_Spec line_taker_spec;

/* What to take a message has ended with, beside NOTHING, and beside EOF_CAME and FAILED to receive one.
   REFUSED is an error of the framing, which Python meets again and tells of. */
enum { TAKEN = ARRIVED, RAISED = -1, REFUSED = -2 };

/* Have `taker(most)` take a message from the buffer. */
int message_take(State *state, Buffer *buffer, PyObject *taker, PyObject *most, Py_ssize_t bound,
                 PyObject **data);

/* verb.c */
typedef enum { RECV, SEND, MESSAGE, OTHER } Kind;

/* What C looks at of a sync connection, which has it in slots. */
enum {
    ITS_CORE, ITS_READING, ITS_SENDING, ITS_LIMIT, ITS_END, ITS_PATIENCE, ITS_ORDERS, ITS_WAITED,
    ITS_UNSENT, ITS_GATHERED, ITS_REPLIES, ITS_DECODED, ITS_WAITER, ITS_OUT, ITS_CHECK_TIMER,
    ITS_DEADLINE_TIMER, SLOTS
};

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
    PyObject *handling; /* the context variable of `_stream/_lease.py` */
    State *state;
    const struct way *way;
    Kind kind;
    PyTypeObject *owner; /* NULL before the class is made */
    Py_ssize_t places[SLOTS];
} Verb;

extern PyType_Spec verb_spec;

/* Call the function, where the arguments are not the usual ones. */
PyObject *verb_in_python(Verb *verb, PyObject *const *args, size_t given, PyObject *names);
/* Read the arguments of `recv`: how many bytes at most; 0 where Python is to say what is wrong. */
Py_ssize_t recv_most(PyObject *const *args, size_t flagged, PyObject *names);

/* One of the slots that the verb looks at, borrowed, of an instance of its class; NULL: it is not set. */
static inline PyObject *
verb_slot(const Verb *verb, PyObject *conn, int slot)
{
    return *(PyObject **)((char *)conn + verb->places[slot]);
}

/* One of the attributes that the verb looks at; NULL: an error is set. */
PyObject *verb_attribute(const Verb *verb, PyObject *conn, int slot);

/* Where an instance of the class has a slot; 0: an error is set. */
Py_ssize_t slot_of(PyObject *owner, const char *name);

PyObject *commit(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);

/* async_verbs.c */
/* Have the error be set that `throw` of a coroutine is given, one argument at least; 0: it is none, and that
   is the error. */
int set_thrown(PyObject *const *args, Py_ssize_t given);
extern PyType_Spec awaitable_spec;

PyObject *async_recv(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *async_send(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *async_end(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *async_message(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
/* Give back the awaitables that are kept. */
void verbs_drop_spare(State *state);

/* sync_verbs.c */
PyObject *sync_recv(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *sync_send(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *sync_end(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);
PyObject *sync_message(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names);

/* rows.c */

/* `HEADER_WORDS`, `ROW_WORDS` and the room for a peer's address, of `_wire/_scoreboard.py`. */
enum { HEADER_WORDS = 32, ROW_WORDS = 24, PEER_SIZE = (ROW_WORDS - WORDS) * 8 };

/* `Ended` of `_stream/_record.py`. */
enum { ENDED_CLOSED = 1, ENDED_RESET = 2, ENDED_RELEASED = 4 };

/* A scoreboard that this process has mapped. */
typedef struct {
    Py_buffer view;
    uint64_t *words;
} Board;

/* A connection that comes to a worker, as its row tells of it.  `accepted_at` is 0 for now; `keep` is the
   word by which the keeper says that it has a handle, 0: it has none. */
typedef struct {
    uint64_t boot, minted_by, number, pid, epoch, accepted_at, bytes_in, bytes_out, keep;
    unsigned long listener;
    char peer[PEER_SIZE]; /* to the first 0, where there is one */
} Newcomer;

/* Use that memory; -1: an error is set. */
int board_map(Board *board, PyObject *memory);
/* A row's words, the first of which is its connection's number. */
enum { NUMBER = 0 };
uint64_t *board_row(const Board *board, uint32_t row);
/* As accept(2): the descriptor, or -1 with `errno` set.  `peer` is "" where only Python can tell. */
int board_accept(int listener, char peer[PEER_SIZE]);
/* Write an address as `_base/_address.format_address` has it; nothing where it takes more. */
void board_peer(char peer[PEER_SIZE], const struct sockaddr_storage *address);
/* Count the newcomer as accepted and write its row, which is free and ours. */
void board_enter(const Board *board, uint32_t row, const Newcomer *newcomer);
/* Write the row but for NUMBER, without which the keeper does not read it, and then NUMBER. */
void board_prepare(const Board *board, uint32_t row, const Newcomer *newcomer);
void board_publish(const Board *board, uint32_t row, uint64_t number);
/* `token_of` of `_wire/_scoreboard.py`. */
uint64_t board_keep_token(const Newcomer *newcomer);
/* A process serves the row's connection from here on. */
void board_served_by(const Board *board, uint32_t row, uint64_t pid);
/* Count how the row's connection ended and blank the row.  0: there is more to its end than that,
   and nothing was done.  failed: so has the process that served it. */
int board_release(const Board *board, uint32_t row, int failed);

typedef struct {
    PyObject_HEAD
    Board board;
    uint32_t count;
    uint32_t used;  /* rows from there on have never been taken */
    uint32_t *free; /* those that were freed, with room for all */
    uint32_t free_count;
} Rows;

extern PyType_Spec rows_spec;

/* Bytes of a connection's name: those that all of a worker have in common, and its number. */
enum { SERIES_SIZE = 64, NUMBER_SIZE = 16 };
/* Write a connection's number as names have it; return where it ends.  Not by a format: the C library's
   touches ten pages, each of which a forked child copies. */
char *write_hexadecimal(char *at, uint64_t number);

/* A free row's number; -1: there is none. */
int64_t rows_take(Rows *rows);
void rows_free(Rows *rows, uint32_t row);
/* Free a row that was entered, as if nobody had been accepted. */
void rows_withdraw(Rows *rows, uint32_t row);

/* casting.c */
extern PyType_Spec caster_spec;
extern PyType_Spec brief_lease_spec;
/* The socket of a descriptor, which it has from there on; a closed one where that is -1, or none of a socket. */
PyObject *caster_socket(PyObject *caster, int fd);
PyObject *caster_transport(PyObject *caster, PyObject *sock);

/* serving.c */
extern PyType_Spec runner_spec;
extern PyType_Spec serving_spec;

/* fork.c */
extern PyType_Spec fork_server_spec;
PyObject *core_withholdable(PyObject *module, PyObject *args);

#pragma GCC visibility pop

#endif
