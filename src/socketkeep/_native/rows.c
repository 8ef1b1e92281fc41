/* A connection's row of the scoreboard, from its accept to its end: what `_wire/_scoreboard.py` does
   in `claim`, `enter` and `release`, for who already has the row's number.

   It owns nothing: the memory is the worker's mapping.  The header's counters are written by the
   worker's one loop, as in Python. */

#define _GNU_SOURCE

#include "core.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* The words of a row that only its beginning and its end are about; see `_stream/_record.py`. */
enum {
    MINTED_BY = 1, EPOCH = 2, PID = 3, ACCEPTED_AT = 8, LISTENER = 10, ENDED = 11,
    HANDLER_ERRORS = 12, KEEP = 13, COMMITTED = 14, BOOT = 15,
};

/* The header's words. */
enum {
    OPEN = 0, ACCEPTED = 1, CLOSED_COUNT = 2, RESET_COUNT = 3, ERRORS_COUNT = 5, CROWDED = 13,
};

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

void
board_peer(char text[PEER_SIZE], const struct sockaddr_storage *address)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    text[0] = 0;
    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
        snprintf(text, PEER_SIZE, "%s:%d", host, ntohs(four->sin_port));
    } else if (address->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
        inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], host, sizeof host);
        snprintf(text, PEER_SIZE, "%s:%d", host, ntohs(six->sin6_port));
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

void
board_enter(const Board *board, uint32_t row, const Newcomer *new)
{
    uint64_t *words = board_row(board, row);
    uint64_t now = core_now_ns();
    size_t size = strlen(new->peer);

    board->words[OPEN]++;
    board->words[ACCEPTED]++;
    memset(words, 0, ROW_WORDS * sizeof *words);
    words[MINTED_BY] = new->minted_by;
    words[EPOCH] = 1;
    words[PID] = new->pid;
    words[ACCEPTED_AT] = words[ACTIVE_AT] = now;
    words[LISTENER] = new->listener;
    words[BOOT] = new->boot;
    memcpy(words + WORDS, new->peer, size);
    /* Last: a row with a number is one that the keeper reads. */
    __atomic_store_n(&words[NUMBER], new->number, __ATOMIC_RELEASE);
}

void
board_served_by(const Board *board, uint32_t row, uint64_t pid)
{
    board_row(board, row)[PID] = pid;
}

int
board_release(const Board *board, uint32_t row, int failed)
{
    uint64_t *words = board_row(board, row), *header = board->words;
    uint64_t end = words[ENDED], errors = words[HANDLER_ERRORS];
    int counter;

    switch (end) {
    case ENDED_CLOSED:
    case ENDED_RELEASED:
        counter = CLOSED_COUNT;
        break;
    case ENDED_RESET:
        counter = RESET_COUNT;
        break;
    default:
        return 0;
    }
    if (failed || words[KEEP] || words[COMMITTED] || header[CROWDED]) {
        return 0;
    }
    header[counter]++;
    header[ERRORS_COUNT] += errors;
    header[OPEN]--;
    /* First: from here on the keeper does not read it. */
    __atomic_store_n(&words[NUMBER], 0, __ATOMIC_RELEASE);
    memset(words, 0, ROW_WORDS * sizeof *words);
    return 1;
}
