/* A guard's connection to a sidecar, which holds for the server what the guard holds.
 *
 * It stands for the server's life.  What there is no room for at once is sent in order later.
 */

#ifndef SOCKETKEEP_LINK_H
#define SOCKETKEEP_LINK_H

#include "held.h"

#include <limits.h>

struct unsent;
struct link {
    char sidecar[PATH_MAX], name[NAME_MAX + 1]; /* "": there is to be none; the server's there */
    int fd;                                     /* -1: there is none */
    struct unsent *first, **last;
    double reconnect_at;
};

/* Connect, and get what it holds for the server, or the names alone; why: what has hindered it. */
bool open_link(struct link *link, struct table *held, bool names_only, char *why);
/* Have it do what the keeper has asked this guard for; fd: what goes with it, or -1. */
void tell(struct link *link, const char *what, const char *name, int fd);
/* Close it when all that this was told so far has been sent; return false if that is so. */
bool close_in_turn(struct link *link, int fd);
/* Do what poll(2) has said of it. */
void look_after(struct link *link, short events);
/* Return whether it is to be found again. */
bool is_lost(const struct link *link);
/* Find it again, and have it hold what this holds. */
void reconnect(struct link *link, const struct table *stored);
/* Have it hear what has ended; it keeps the rest for the next server. */
void finish_link(struct link *link);

#endif
