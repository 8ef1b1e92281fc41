/* See link.h. */

#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE 5.0  /* seconds for a sidecar to answer */
#define RECONNECT 1.0 /* seconds from one attempt to find it again to the next */

/* What waits until the sidecar has room for it. */
struct unsent {
    struct unsent *next;
    int fd; /* -1: none */
    size_t length;
    char words[];
};

static void forget_unsent(struct link *link)
{
    struct unsent *each = link->first;
    link->first = each->next;
    if (!link->first)
        link->last = &link->first;
    if (each->fd >= 0)
        close(each->fd);
    free(each);
}

static void close_link(struct link *link, const char *why)
{
    say("the guard at %s is gone: %s", link->sidecar, why);
    close(link->fd);
    link->fd = -1;
    while (link->first)
        forget_unsent(link);
}

/* Send the sidecar what there is room for. */
static void flush(struct link *link)
{
    while (link->first && link->fd >= 0) {
        struct unsent *each = link->first;
        if (each->length && !send_word(link->fd, each->words, each->length, each->fd)) {
            if (errno != EAGAIN)
                close_link(link, strerror(errno));
            return;
        }
        forget_unsent(link);
    }
}

void tell(struct link *link, const char *what, const char *name, int fd)
{
    if (link->fd < 0)
        return;
    size_t room = strlen(what) + strlen(name) + sizeof "=1\nFDNAME=";
    struct unsent *each = need(malloc(sizeof *each + room));
    each->next = NULL;
    each->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (each->fd < 0 && fd >= 0) { /* it is told when this has connected again */
        free(each);
        close_link(link, strerror(errno));
        return;
    }
    each->length = (size_t)snprintf(each->words, room, "%s=1\nFDNAME=%s", what, name);
    *link->last = each;
    link->last = &each->next;
    flush(link);
}

bool close_in_turn(struct link *link, int fd)
{
    if (link->fd < 0 || !link->first)
        return false;
    struct unsent *each = need(malloc(sizeof *each));
    *each = (struct unsent){.fd = fd}; /* no words */
    *link->last = each;
    link->last = &each->next;
    return true;
}

/* Take from the sidecar what it holds for the server, until it says that this is all.  names_only:
 * by -1s, since there may be no room for the descriptors. */
static bool take_held(int fd, struct table *held, bool names_only, char *why)
{
    char text[LARGEST + 1], value[LARGEST];
    int fds[MOST_AT_ONCE];
    size_t count;
    pid_t who;
    while (true) {
        ssize_t length = receive(fd, text, fds, &count, &who);
        if (length < 0) {
            snprintf(why, LARGEST, "%s", strerror(errno));
            return false;
        }
        if (word(text, "END", value, sizeof value))
            return true;
        bool named = word(text, "FDNAME", value, sizeof value);
        bool kept = named && count && !names_only && put(held, value, fds[0]);
        for (size_t each = kept; each < count; each++)
            close(fds[each]);
        if (named && names_only)
            put(held, value, -1);
        if (named && (count || names_only))
            continue;
        bool told = word(text, "REFUSED", value, sizeof value);
        snprintf(why, LARGEST, "%s",
                 told ? value : named ? "what it holds has no room: raise the limit of descriptors"
                                      : "it has closed the connection");
        return false;
    }
}

bool open_link(struct link *link, struct table *held, bool names_only, char *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = (time_t)PATIENCE};
    char hello[LARGEST];
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int length = snprintf(hello, sizeof hello, "HELLO=" SIDECAR_VERSION "\nSERVER=%s", link->name);
    snprintf(why, LARGEST, "its name is too long");
    bool good = fd >= 0 && strlen(link->sidecar) < sizeof address.sun_path
        && length < (int)sizeof hello;
    if (good) {
        strcpy(address.sun_path, link->sidecar);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0
            && send(fd, hello, (size_t)length, MSG_NOSIGNAL) == length;
        if (!good)
            snprintf(why, LARGEST, "%s: start it there first, by socketkeep guard --listen",
                     strerror(errno));
    }
    if (good && take_held(fd, held, names_only, why)) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        link->fd = fd;
        return true;
    }
    while (held->count)
        drop(held, held->rows[held->count - 1].name);
    free(held->rows);
    *held = (struct table){0};
    if (fd >= 0)
        close(fd);
    return false;
}

static void tell_all(struct link *link, const struct table *stored, const struct table *but)
{
    for (size_t each = 0; each < stored->count; each++) {
        bool found;
        place_of(but, stored->rows[each].name, &found);
        if (!found)
            tell(link, "FDSTORE", stored->rows[each].name, stored->rows[each].fd);
    }
}

void reconnect(struct link *link, const struct table *stored)
{
    char why[LARGEST];
    struct table theirs = {0}, none = {0};
    link->reconnect_at = now() + RECONNECT;
    if (!open_link(link, &theirs, true, why))
        return;
    tell_all(link, stored, &theirs); /* before what is stale goes: of the same connections, it may be */
    bool removed = false;
    while (theirs.count) {
        bool found;
        const char *name = theirs.rows[theirs.count - 1].name;
        place_of(stored, name, &found);
        if (!found)
            tell(link, "FDSTOREREMOVE", name, -1);
        removed |= !found;
        drop(&theirs, name);
    }
    free(theirs.rows);
    if (removed)
        tell_all(link, stored, &none); /* what had no room there may have some now */
    say("the guard of %s holds it again: %zu descriptors", link->name, stored->count);
}

void finish_link(struct link *link)
{
    double deadline = now() + PATIENCE;
    while (link->fd >= 0 && link->first && now() < deadline) {
        struct pollfd room = {.fd = link->fd, .events = POLLOUT};
        poll(&room, 1, (int)((deadline - now()) * 1000) + 1);
        flush(link);
    }
}

void look_after(struct link *link, short events)
{
    flush(link);
    if (link->fd >= 0 && events & ~POLLOUT) /* it says nothing more: it has ended */
        close_link(link, "it has ended");
}

bool is_lost(const struct link *link)
{
    return *link->sidecar && link->fd < 0;
}
