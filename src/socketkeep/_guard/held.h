/* Descriptors under names, and the words by which they come and go: what guard and sidecar share. */

#ifndef SOCKETKEEP_HELD_H
#define SOCKETKEEP_HELD_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/types.h>

#define SIDECAR_VERSION "1" /* of what guard and sidecar say to each other; another is refused */
#define LARGEST 4096        /* bytes of a word */
#define MOST_AT_ONCE 16     /* descriptors in a word; a keeper sends one */

/* Descriptors under names, sorted by these, but where `insert` has put one elsewhere. */
struct held {
    char *name;
    int fd;
};
struct table {
    struct held *rows;
    size_t count, room;
};

/* Seconds, on a clock that nobody sets. */
double now(void);

/* Say a line on standard error, if there is room for it. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
_Noreturn void fail(const char *what);

/* Return the memory, or end without it. */
void *need(void *memory);

/* Return where a name is, or belongs. */
size_t place_of(const struct table *table, const char *name, bool *found);
void insert(struct table *table, size_t place, const char *name, int fd);
/* Put a descriptor under a name, unless there is one; return whether it is kept. */
bool put(struct table *table, const char *name, int fd);
/* Close what is under a name; return whether there was something. */
bool drop(struct table *table, const char *name);

/* Return what a line KEY=VALUE of the text says, NULL if there is none; the text ends with NUL. */
char *word(char *text, const char *key, char *value, size_t room);
/* Receive a word into `text`, with NUL behind it; return its length, or -1.  fds: as many as there
 * are in *count; who: the pid of the sender, where the socket has it told. */
ssize_t receive(int from, char *text, int *fds, size_t *count, pid_t *who);
/* Send a word, with a descriptor, -1: with none; return whether it could be sent. */
bool send_word(int to, const char *text, size_t length, int fd);

/* Be the guard of servers in other containers, which connect to `listener`; hold `most` in all. */
_Noreturn void serve_sidecar(int listener, size_t most);

#endif
