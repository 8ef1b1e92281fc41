/* A connection's row of the scoreboard, from its accept to its end, and which rows are free: the twin of
   `Rows` of `_wire/_scoreboard.py`.

   It owns the numbers of the free rows; the memory is the worker's mapping.  The header's counters are
   written with the interpreter's lock held. */

#define _GNU_SOURCE

#include "core.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* The words of a row that only its beginning and its end are about; see `_stream/_record.py`. */
enum {
    MINTED_BY = 1, EPOCH = 2, PID = 3, ACCEPTED_AT = 8, LISTENER = 10, HANDLER_ERRORS = 12,
    KEEP = 13, COMMITTED = 14, BOOT = 15,
};

/* The header's words. */
enum {
    OPEN = 0, ACCEPTED = 1, CLOSED_COUNT = 2, RESET_COUNT = 3, DETACHED_COUNT = 4, ERRORS_COUNT = 5,
    LOST_COUNT = 9,
};

/* What counts a connection, by how it has ended. */
static const int COUNTERS[] = {
    LOST_COUNT, CLOSED_COUNT, RESET_COUNT, DETACHED_COUNT, CLOSED_COUNT, DETACHED_COUNT,
};
enum { ENDS = sizeof COUNTERS / sizeof *COUNTERS };

uint64_t *
board_row(const Board *board, uint32_t row)
{
    return board->words + HEADER_WORDS + (size_t)row * ROW_WORDS;
}

int
board_map(Board *board, PyObject *memory)
{
    if (PyObject_GetBuffer(memory, &board->view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    board->words = board->view.buf;
    return 0;
}

/* Write a number's digits; return where they end. */
static char *
write_number(char *text, unsigned number)
{
    char digits[10];
    int count = 0;

    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count) {
        *text++ = digits[--count];
    }
    return text;
}

/* An IPv4 address, of network order, and a port: what most come from. */
static void
write_inet(char text[PEER_SIZE], const unsigned char *host, unsigned port)
{
    for (int byte = 0; byte < 4; byte++) {
        text = write_number(text, host[byte]);
        *text++ = byte == 3 ? ':' : '.';
    }
    *write_number(text, port) = 0;
}

void
board_peer(char text[PEER_SIZE], const struct sockaddr_storage *address)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    text[0] = 0;
    if (address->ss_family == AF_INET) {
        write_inet(text, (const unsigned char *)&four->sin_addr, ntohs(four->sin_port));
    } else if (address->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
        write_inet(text, &six->sin6_addr.s6_addr[12], ntohs(six->sin6_port));
    } else if (address->ss_family == AF_INET6 && six->sin6_scope_id == 0) {
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        snprintf(text, PEER_SIZE, "[%s]:%d", host, ntohs(six->sin6_port));
    }
}

int
board_accept(int listener, char peer[PEER_SIZE])
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof address;
    int fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        board_peer(peer, &address);
    }
    return fd;
}

char *
write_hexadecimal(char *at, uint64_t number)
{
    char digits[NUMBER_SIZE];
    int count = 0;

    do {
        digits[count++] = "0123456789abcdef"[number & 15];
        number >>= 4;
    } while (number);
    while (count) {
        *at++ = digits[--count];
    }
    return at;
}

void
board_prepare(const Board *board, uint32_t row, const Newcomer *new)
{
    uint64_t *words = board_row(board, row);
    uint64_t now = core_now_ns();

    memset(words, 0, ROW_WORDS * sizeof *words);
    words[MINTED_BY] = new->minted_by;
    words[EPOCH] = new->epoch;
    words[PID] = new->pid;
    words[BYTES_IN] = new->bytes_in;
    words[BYTES_OUT] = new->bytes_out;
    words[ACCEPTED_AT] = new->accepted_at ? new->accepted_at : now;
    words[ACTIVE_AT] = now;
    words[LISTENER] = new->listener;
    words[KEEP] = new->keep;
    words[BOOT] = new->boot;
    memcpy(words + WORDS, new->peer, strnlen(new->peer, PEER_SIZE));
}

uint64_t
board_keep_token(const Newcomer *new)
{
    return ((new->minted_by << 40 ^ new->number << 12 ^ new->epoch) & INT64_MAX) | 2;
}

void
board_publish(const Board *board, uint32_t row, uint64_t number)
{
    __atomic_store_n(&board_row(board, row)[NUMBER], number, __ATOMIC_RELEASE);
}

void
board_enter(const Board *board, uint32_t row, const Newcomer *new)
{
    board->words[OPEN]++;
    board->words[ACCEPTED]++;
    board_prepare(board, row, new);
    board_publish(board, row, new->number);
}

void
board_served_by(const Board *board, uint32_t row, uint64_t pid)
{
    board_row(board, row)[PID] = pid;
}

static void
blank(const Board *board, uint32_t row)
{
    uint64_t *words = board_row(board, row);

    /* First: from here on the keeper does not read it. */
    __atomic_store_n(&words[NUMBER], 0, __ATOMIC_RELEASE);
    memset(words, 0, ROW_WORDS * sizeof *words);
}

/* Count how the row's connection ended, and blank the row. */
static void
end(const Board *board, uint32_t row)
{
    uint64_t *words = board_row(board, row), *header = board->words, how = words[ENDED];

    header[how < ENDS ? COUNTERS[how] : LOST_COUNT]++;
    header[ERRORS_COUNT] += words[HANDLER_ERRORS];
    header[OPEN]--;
    blank(board, row);
}

int
board_release(const Board *board, uint32_t row, int failed)
{
    const uint64_t *words = board_row(board, row);
    uint64_t how = words[ENDED];

    if (how != ENDED_CLOSED && how != ENDED_RELEASED && how != ENDED_RESET) {
        return 0;
    }
    if (failed || words[KEEP] || words[COMMITTED] || board->words[CROWDED]) {
        return 0;
    }
    end(board, row);
    return 1;
}

int64_t
rows_take(Rows *rows)
{
    if (rows->free_count) {
        return rows->free[--rows->free_count];
    }
    return rows->used < rows->count ? (int64_t)rows->used++ : -1;
}

void
rows_free(Rows *rows, uint32_t row)
{
    if (rows->free_count < rows->count) { /* one that is freed twice would be two connections' */
        rows->free[rows->free_count++] = row;
    }
}

void
rows_withdraw(Rows *rows, uint32_t row)
{
    rows->board.words[OPEN]--;
    rows->board.words[ACCEPTED]--;
    blank(&rows->board, row);
    rows_free(rows, row);
}

/* A row's number in a Python object; -1: an error is set. */
static int64_t
number_of(const Rows *rows, PyObject *object)
{
    unsigned long row = PyLong_AsUnsignedLong(object);

    if (row == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    if (row >= rows->count) {
        PyErr_SetString(PyExc_IndexError, "there is no such row");
        return -1;
    }
    return (int64_t)row;
}

/* The header's word in a Python object, -1 for None; -2: an error is set. */
static int
counter_of(PyObject *object)
{
    long word;

    if (object == Py_None) {
        return -1;
    }
    word = PyLong_AsLong(object);
    if (word < 0 || word >= HEADER_WORDS) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_IndexError, "the header has no such word");
        }
        return -2;
    }
    return (int)word;
}

static PyObject *
number_or_none(int64_t row)
{
    if (row < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(row);
}

static PyObject *
Rows_claim(Rows *rows, PyObject *object)
{
    int counter = counter_of(object);
    int64_t row = counter == -2 ? -1 : rows_take(rows);

    if (counter == -2) {
        return NULL;
    }
    if (row >= 0) {
        rows->board.words[OPEN]++;
        if (counter >= 0) {
            rows->board.words[counter]++;
        }
    }
    return number_or_none(row);
}

static PyObject *
Rows_reserve(Rows *rows, PyObject *Py_UNUSED(ignored))
{
    return number_or_none(rows_take(rows));
}

static PyObject *
Rows_give_back(Rows *rows, PyObject *const *args, Py_ssize_t given)
{
    int64_t row;
    int counter;

    if (given != 2) {
        return PyErr_Format(PyExc_TypeError, "give_back() takes 2 arguments (%zd given)", given);
    }
    row = number_of(rows, args[0]);
    counter = row < 0 ? -2 : counter_of(args[1]);
    if (counter == -2) {
        return NULL;
    }
    rows->board.words[OPEN]--;
    if (counter >= 0) {
        rows->board.words[counter]--;
    }
    blank(&rows->board, (uint32_t)row);
    rows_free(rows, (uint32_t)row);
    Py_RETURN_NONE;
}

static PyObject *
Rows_release(Rows *rows, PyObject *object)
{
    int64_t row = number_of(rows, object);

    if (row < 0) {
        return NULL;
    }
    end(&rows->board, (uint32_t)row);
    rows_free(rows, (uint32_t)row);
    Py_RETURN_NONE;
}

static PyObject *
Rows_settle(Rows *rows, PyObject *object)
{
    int64_t row = number_of(rows, object);

    if (row < 0) {
        return NULL;
    }
    if (!board_release(&rows->board, (uint32_t)row, 0)) {
        Py_RETURN_FALSE;
    }
    rows_free(rows, (uint32_t)row);
    Py_RETURN_TRUE;
}

static PyObject *
Rows_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *memory;
    unsigned int count;
    Rows *rows;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Rows() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OI:Rows", &memory, &count)) {
        return NULL;
    }
    rows = (Rows *)type->tp_alloc(type, 0);
    if (!rows || board_map(&rows->board, memory) < 0) {
        Py_XDECREF(rows);
        return NULL;
    }
    rows->count = count;
    rows->free = PyMem_New(uint32_t, count ? count : 1);
    if (!rows->free) {
        PyErr_NoMemory();
    } else if ((uintptr_t)rows->board.words % sizeof(uint64_t) ||
               (size_t)rows->board.view.len / sizeof(uint64_t) <
                   HEADER_WORDS + (size_t)count * ROW_WORDS) {
        PyErr_SetString(PyExc_ValueError, "a scoreboard has a header, and words for all its rows");
    } else {
        return (PyObject *)rows;
    }
    Py_DECREF(rows);
    return NULL;
}

static void
Rows_dealloc(Rows *rows)
{
    PyTypeObject *type = Py_TYPE(rows);

    if (rows->board.words) {
        PyBuffer_Release(&rows->board.view);
    }
    PyMem_Free(rows->free);
    type->tp_free(rows);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"claim", (PyCFunction)Rows_claim, METH_O,
     "Return a free row, counted in the header's word, or None when all are taken."},
    {"reserve", (PyCFunction)Rows_reserve, METH_NOARGS, "The same, and count nothing."},
    {"give_back", (PyCFunction)(void (*)(void))Rows_give_back, METH_FASTCALL,
     "Free a row, as if it had not been claimed and counted."},
    {"release", (PyCFunction)Rows_release, METH_O,
     "Count how the row's connection has ended, and free the row."},
    {"settle", (PyCFunction)Rows_settle, METH_O,
     "The same where nobody is to be told; return whether it was done."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Rows_new},
    {Py_tp_dealloc, Rows_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The twin of `_wire._scoreboard.Rows`."},
    {0, NULL},
};

PyType_Spec rows_spec = {
    .name = "socketkeep._native._core.Rows",
    .basicsize = sizeof(Rows),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
