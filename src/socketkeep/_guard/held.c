/* See held.h. */

#include "held.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Who reads the log must not keep this process waiting. */
void say(const char *format, ...)
{
    struct pollfd log = {.fd = 2, .events = POLLOUT};
    if (poll(&log, 1, 0) != 1 || !(log.revents & POLLOUT))
        return;
    char line[LARGEST] = "socketkeep: guard: ";
    size_t begun = strlen(line);
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line + begun, sizeof line - begun - 1, format, values);
    va_end(values);
    if (length < 0)
        return;
    line[strlen(line)] = '\n';
    ssize_t written = write(2, line, strlen(line));
    (void)written;
}

_Noreturn void fail(const char *what)
{
    say("%s: %s", what, strerror(errno));
    exit(1);
}

void *need(void *memory)
{
    if (!memory)
        fail("cannot go on");
    return memory;
}

size_t place_of(const struct table *table, const char *name, bool *found)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(table->rows[middle].name, name);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = false;
    return low;
}

/* The analyzer does not follow a name into memory that was moved. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
void insert(struct table *table, size_t place, const char *name, int fd)
{
    if (table->count == table->room) {
        table->room = table->room ? 2 * table->room : 16;
        table->rows = need(reallocarray(table->rows, table->room, sizeof *table->rows));
    }
    struct held *row = &table->rows[place];
    memmove(row + 1, row, (table->count - place) * sizeof *row);
    *row = (struct held){need(strdup(name)), fd};
    table->count++;
}
#pragma GCC diagnostic pop

bool put(struct table *table, const char *name, int fd)
{
    bool found;
    size_t place = place_of(table, name, &found);
    if (!found)
        insert(table, place, name, fd);
    return !found;
}

bool drop(struct table *table, const char *name)
{
    bool found;
    size_t place = place_of(table, name, &found);
    if (found) {
        struct held *row = &table->rows[place];
        close(row->fd);
        free(row->name);
        table->count--;
        memmove(row, row + 1, (table->count - place) * sizeof *row);
    }
    return found;
}

char *word(char *text, const char *key, char *value, size_t room)
{
    size_t length = strlen(key);
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            size_t size = strcspn(line + length + 1, "\n");
            if (size >= room)
                return NULL;
            memcpy(value, line + length + 1, size);
            value[size] = 0;
            return value;
        }
    }
    return NULL;
}

ssize_t receive(int from, char *text, int *fds, size_t *count, pid_t *who)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(MOST_AT_ONCE * sizeof(int))];
    } ancillary;
    struct iovec room = {text, LARGEST};
    struct msghdr message = {
        .msg_iov = &room, .msg_iovlen = 1,
        .msg_control = &ancillary, .msg_controllen = sizeof ancillary,
    };
    ssize_t length = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    *count = 0;
    *who = 0;
    if (length < 0)
        return -1;
    text[length] = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
        size_t size = each->cmsg_len - CMSG_LEN(0);
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS) {
            *count = size / sizeof(int);
            memcpy(fds, CMSG_DATA(each), *count * sizeof(int));
        } else if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_CREDENTIALS) {
            struct ucred credentials;
            memcpy(&credentials, CMSG_DATA(each), sizeof credentials);
            *who = credentials.pid;
        }
    }
    return length;
}

bool send_word(int to, const char *text, size_t length, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } rights = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec content = {(char *)text, length};
    struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&rights.head), &fd, sizeof fd);
        message.msg_control = &rights;
        message.msg_controllen = sizeof rights.room;
    }
    return sendmsg(to, &message, MSG_NOSIGNAL) >= 0;
}
