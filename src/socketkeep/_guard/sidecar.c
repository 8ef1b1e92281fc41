/* A guard in a container of its own, compiled: what `_sidecar.py` is, which has opened the listener.
 *
 * It owns what servers have had it store.  One connection stands for one server: while it is there
 * nobody else is the server of that name, and when it ends, what is stored waits for the next one.
 */

#include "held.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MOST_GUESTS 256
#define SPARE 16 /* more, which are told that there are too many */
#define MOST_SERVERS 64
#define LONGEST 255 /* characters of a name */
#define LATE 1      /* seconds that a send to a guest may take */
#define PAUSE 100   /* milliseconds without accepting, when there was no descriptor for one more */

struct server {
    char name[LONGEST + 1]; /* "": there is none here */
    struct table held;
};

/* A client; refused: why, which it is told once it has spoken; server: by its word. */
struct guest {
    int fd;
    char refused[128];
    struct server *server;
};

static struct server servers[MOST_SERVERS];
static struct guest guests[MOST_GUESTS + SPARE];
static size_t guest_count, held_count, most;

/* Say a line of the log, as Python does; again: when it may say that next, NULL: at any time. */
__attribute__((format(printf, 3, 4))) static void note(double *again, const char *level,
                                                       const char *format, ...)
{
    if (again && now() < *again)
        return;
    if (again)
        *again = now() + 1.0;
    char line[LARGEST];
    struct timespec at;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &at);
    gmtime_r(&at.tv_sec, &utc);
    size_t length = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    length += (size_t)snprintf(line + length, sizeof line - length, ".%03ldZ %-7s ",
                               at.tv_nsec / 1000000, level);
    va_list values;
    va_start(values, format);
    vsnprintf(line + length, sizeof line - length - 1, format, values);
    va_end(values);
    for (char *each = line; *each; each++)
        if ((unsigned char)*each < ' ' || *each == 0x7f) /* a name may have what steers a terminal */
            *each = '?';
    strcat(line, "\n");
    struct pollfd log = {.fd = 2, .events = POLLOUT};
    if (poll(&log, 1, 0) == 1 && log.revents & POLLOUT) {
        ssize_t written = write(2, line, strlen(line));
        (void)written;
    }
}

/* Return the server of the name, NULL: there is none; "": a free place. */
static struct server *find(const char *name)
{
    for (size_t each = 0; each < MOST_SERVERS; each++)
        if (strcmp(servers[each].name, name) == 0)
            return &servers[each];
    return NULL;
}

static void meet(int fd)
{
    struct ucred who = {0};
    socklen_t size = sizeof who;
    struct timeval late = {.tv_sec = LATE};
    struct guest *guest = &guests[guest_count];
    *guest = (struct guest){.fd = fd};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &late, sizeof late);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
        who.uid = (uid_t)-1;
    if (who.uid != geteuid() && who.uid != 0)
        snprintf(guest->refused, sizeof guest->refused,
                 "it is of user %u, and the guard of user %u", who.uid, geteuid());
    else if (guest_count >= MOST_GUESTS)
        snprintf(guest->refused, sizeof guest->refused, "%d are connected", MOST_GUESTS);
    guest_count++;
}

/* Write why a guest cannot be the server that it says it is; return whether that is so. */
static bool is_refused(const struct guest *guest, char *text, char *name, char *why)
{
    char version[16];
    const char *spoken = word(text, "HELLO", version, sizeof version);
    bool named = word(text, "SERVER", name, LONGEST + 1) && *name;
    if (*guest->refused)
        snprintf(why, LARGEST, "%s", guest->refused);
    else if (!spoken)
        snprintf(why, LARGEST, "it speaks version None, and the guard " SIDECAR_VERSION);
    else if (strcmp(version, SIDECAR_VERSION) != 0)
        snprintf(why, LARGEST, "it speaks version '%s', and the guard " SIDECAR_VERSION, version);
    else if (!named)
        snprintf(why, LARGEST, "a server has a name of 1 to %d characters", LONGEST);
    else {
        const struct server *server = find(name);
        for (size_t each = 0; server && each < guest_count; each++)
            if (guests[each].server == server) {
                snprintf(why, LARGEST,
                         "a server named '%s' is connected: stop that one, or give another --name",
                         name);
                return true;
            }
        if (server || find(""))
            return false;
        snprintf(why, LARGEST, "%d servers are known", MOST_SERVERS);
    }
    return true;
}

/* Give a server what is held for it, unless that may not be; return whether it stays. */
static bool welcome(struct guest *guest, char *text)
{
    static double again;
    char name[LONGEST + 1] = "", why[LARGEST], words[LARGEST];
    if (is_refused(guest, text, name, why)) {
        note(&again, "warning", "a server was refused why=\"%.1000s\"", why);
        int length = snprintf(words, sizeof words, "REFUSED=%.1000s", why);
        send_word(guest->fd, words, (size_t)length, -1);
        return false;
    }
    struct server *server = find(name);
    if (!server) {
        server = find("");
        strcpy(server->name, name);
    }
    guest->server = server;
    for (size_t each = 0; each < server->held.count; each++) {
        const struct held *row = &server->held.rows[each];
        int length = snprintf(words, sizeof words, "FDNAME=%s", row->name);
        if (!send_word(guest->fd, words, (size_t)length, row->fd))
            return false;
    }
    if (!send_word(guest->fd, "END=1", strlen("END=1"), -1))
        return false;
    note(NULL, "info", "server connected name=\"%s\" held=%zu", name, server->held.count);
    return true;
}

/* Do what a server asks for; return whether the descriptor, -1: none, is stored. */
static bool act(struct server *server, char *text, int fd)
{
    static double again;
    char name[LONGEST + 1], value[LARGEST];
    if (!word(text, "FDNAME", name, sizeof name) || !*name)
        return false;
    if (word(text, "FDSTOREREMOVE", value, sizeof value)) {
        held_count -= drop(&server->held, name);
        return false;
    }
    if (!word(text, "FDSTORE", value, sizeof value) || fd < 0)
        return false;
    if (held_count >= most) {
        note(&again, "warning", "the guard is full most=%zu", most);
        return false;
    }
    bool kept = put(&server->held, name, fd);
    held_count += kept;
    return kept;
}

/* Take a word; return whether the guest is still there, and one. */
static bool hear(struct guest *guest)
{
    char text[LARGEST + 1];
    int fds[MOST_AT_ONCE];
    size_t count;
    pid_t who;
    ssize_t length = receive(guest->fd, text, fds, &count, &who);
    bool kept = false, stays = length > 0;
    if (stays && guest->server)
        kept = act(guest->server, text, count ? fds[0] : -1);
    else if (stays)
        stays = welcome(guest, text);
    for (size_t each = kept; each < count; each++)
        close(fds[each]);
    return stays;
}

static void end(struct guest *guest)
{
    struct server *server = guest->server;
    close(guest->fd);
    *guest = guests[--guest_count];
    if (!server)
        return;
    note(NULL, "info", "server gone name=\"%s\" held=%zu", server->name, server->held.count);
    if (!server->held.count) {
        free(server->held.rows);
        *server = (struct server){0};
    }
}

static void leave(int number)
{
    (void)number;
    _exit(0);
}

_Noreturn void serve_sidecar(int listener, size_t room)
{
    most = room;
    prctl(PR_SET_NAME, "socketkeep");
    signal(SIGTERM, leave); /* by default the first process of a container does not heed these */
    signal(SIGINT, leave);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* nor does anybody else reap there */
    fcntl(listener, F_SETFL, O_NONBLOCK);
    bool pauses = false;
    while (true) {
        struct pollfd fds[MOST_GUESTS + SPARE + 1];
        size_t count = guest_count;
        bool accepts = !pauses && count < MOST_GUESTS + SPARE;
        for (size_t each = 0; each < count; each++)
            fds[each] = (struct pollfd){.fd = guests[each].fd, .events = POLLIN};
        fds[count] = (struct pollfd){.fd = accepts ? listener : -1, .events = POLLIN};
        if (poll(fds, count + 1, pauses ? PAUSE : -1) < 0)
            continue;
        pauses = false;
        for (size_t each = count; each-- > 0;) /* backwards: the last one takes an ended one's place */
            if (fds[each].revents && !hear(&guests[each]))
                end(&guests[each]);
        if (fds[count].revents) {
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0)
                meet(fd);
            else
                pauses = errno != EAGAIN && errno != ECONNABORTED;
        }
    }
}
