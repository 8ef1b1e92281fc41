/* The guard, compiled: what `_program.py` is, of which it is the twin, in a twentieth of the memory.
 *
 *     guard PLAN COMMAND...
 *     guard --listen LISTENER MOST
 *     guard --check
 *
 * It owns the descriptors that the keeper has had it store, and the pid of the keeper; link.c has
 * the connection to a sidecar, and sidecar.c is that (--listen).  Why it does what it does is said there; what is spoken, and the plan,
 * are the same, so that either goes on where the other was.  Signals are blocked for good and read
 * from a descriptor, so that none is lost when it executes its next version.
 */

#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES "socketkeep.names"
#define SILENCE 60.0          /* seconds without a word of the keeper's, after which it is killed */
#define SHORTEST 0.1          /* seconds until one that ends again and again is started, doubled */
#define LONGEST 5.0
#define SETTLED 10.0          /* seconds after which one that ends is none of those */
#define FIRST_PASSED 3        /* SD_LISTEN_FDS_START of sd_listen_fds(3) */

static const int FORWARDED[] = {
    SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU, SIGWINCH,
};

static struct {
    /* The plan, as `Plan` has it. */
    int keeper, socket, most, soft, starts, ready;
    char directory[PATH_MAX], cause[64];
    struct link link; /* to the sidecar, of which the plan has address and name */
    struct table passed, stored;
    /* What begins anew in each version. */
    char **command; /* starts the keeper */
    char **next;    /* those of the next version, while that is tried, and the text that has them */
    char *next_text;
    pid_t renewal;
    int signals, pidfd; /* pidfd: of a keeper that is no child; -1: it is one */
    bool ending, speaks;
    sigset_t owed;
    double started_at, heard_at, start_at, delay;
} guard;

/* Small things. */

static void set_inheritable(int fd, bool inheritable)
{
    fcntl(fd, F_SETFD, inheritable ? 0 : FD_CLOEXEC);
}

/* The plan. */

static struct {
    const char *key;
    int *number;
    char *text;
    size_t room; /* of the text */
} const FIELDS[] = {
    {"keeper", &guard.keeper, NULL, 0},
    {"socket", &guard.socket, NULL, 0},
    {"most", &guard.most, NULL, 0},
    {"soft", &guard.soft, NULL, 0},
    {"starts", &guard.starts, NULL, 0},
    {"ready", &guard.ready, NULL, 0},
    {"directory", NULL, guard.directory, sizeof guard.directory},
    {"cause", NULL, guard.cause, sizeof guard.cause},
    {"sidecar", NULL, guard.link.sidecar, sizeof guard.link.sidecar},
    {"name", NULL, guard.link.name, sizeof guard.link.name},
};
#define FIELD_COUNT (sizeof FIELDS / sizeof *FIELDS)

static void read_plan(int fd)
{
    struct stat about;
    if (fstat(fd, &about) < 0)
        fail("there is no plan");
    char *text = need(malloc((size_t)about.st_size + 1));
    if (pread(fd, text, (size_t)about.st_size, 0) != about.st_size)
        fail("the plan cannot be read");
    text[about.st_size] = 0;
    close(fd);
    for (char *line = text; line < text + about.st_size; line += strlen(line) + 1) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        size_t length = (size_t)(value++ - line);
        char *name = strchr(value, '=');
        if (name && (strncmp(line, "passed=", 7) == 0 || strncmp(line, "stored=", 7) == 0)) {
            int held = atoi(value);
            set_inheritable(held, false);
            if (*line == 'p')
                insert(&guard.passed, guard.passed.count, name + 1, held);
            else
                put(&guard.stored, name + 1, held);
            continue;
        }
        for (size_t each = 0; each < FIELD_COUNT; each++) {
            if (strlen(FIELDS[each].key) != length || strncmp(line, FIELDS[each].key, length) != 0)
                continue;
            if (FIELDS[each].number)
                *FIELDS[each].number = atoi(value);
            else
                snprintf(FIELDS[each].text, FIELDS[each].room, "%s", value);
        }
    }
    free(text);
    set_inheritable(guard.socket, false);
}

static void write_rows(int fd, const char *key, const struct table *table)
{
    for (size_t each = 0; each < table->count; each++) {
        const struct held *row = &table->rows[each];
        dprintf(fd, "%c%s=%d=%s", 0, key, row->fd, row->name);
        set_inheritable(row->fd, true);
    }
}

/* Return a descriptor that the plan can be read from, inheritable like all that it names. */
static int write_plan(void)
{
    int fd = memfd_create("socketkeep-guard", 0);
    if (fd < 0)
        return -1;
    for (size_t each = 0; each < FIELD_COUNT; each++) {
        if (each)
            dprintf(fd, "%c", 0);
        if (FIELDS[each].number)
            dprintf(fd, "%s=%d", FIELDS[each].key, *FIELDS[each].number);
        else
            dprintf(fd, "%s=%s", FIELDS[each].key, FIELDS[each].text);
    }
    write_rows(fd, "passed", &guard.passed);
    write_rows(fd, "stored", &guard.stored);
    set_inheritable(guard.socket, true);
    return fd;
}

/* Starting the keeper. */

/* Give descriptors the numbers from FIRST_PASSED on, in place: there may be no room for as many
 * again.  at: which of them has a number, -1: none, for `room` numbers. */
static void lay_out(int *fds, int count)
{
    int room = FIRST_PASSED + count;
    for (int each = 0; each < count; each++)
        room = fds[each] >= room ? fds[each] + 1 : room;
    int *at = need(calloc((size_t)room, sizeof *at));
    memset(at, -1, (size_t)room * sizeof *at);
    for (int each = 0; each < count; each++)
        at[fds[each]] = each;
    for (int each = 0; each < count; each++) {
        int fd = fds[each], number = FIRST_PASSED + each;
        if (fd == number) {
            set_inheritable(fd, true);
            continue;
        }
        if (at[number] >= 0) {
            int moved = dup(number);
            if (moved < 0)
                fail("cannot pass what is stored");
            fds[at[number]] = moved;
            if (moved >= room) {
                at = need(reallocarray(at, (size_t)moved + 1, sizeof *at));
                memset(at + room, -1, (size_t)(moved + 1 - room) * sizeof *at);
                room = moved + 1;
            }
            at[moved] = at[number];
        }
        dup2(fd, number);
        close(fd);
        at[fd] = -1;
        at[number] = each;
    }
    free(at);
}

static void set_number(const char *name, long number)
{
    char text[24];
    snprintf(text, sizeof text, "%ld", number);
    need(setenv(name, text, 1) == 0 ? text : NULL);
}

/* Tell the keeper by its environment what `Plan.variables` has. */
static void set_variables(int passed)
{
    struct sockaddr_un own;
    socklen_t size = sizeof own;
    char notify[sizeof own.sun_path + 2] = "@", guarded[LARGEST], names[LARGEST];
    getsockname(guard.socket, (struct sockaddr *)&own, &size);
    size_t length = size - offsetof(struct sockaddr_un, sun_path);
    memcpy(notify + 1, own.sun_path + 1, length - 1);
    notify[length] = 0;
    snprintf(guarded, sizeof guarded, "%ld %d %d %s", (long)getppid(), guard.soft, guard.starts,
             guard.cause);
    size_t begun = 0;
    for (size_t each = 0; each < guard.passed.count; each++) {
        int more = snprintf(names + begun, sizeof names - begun, "%s:", guard.passed.rows[each].name);
        begun += (size_t)more;
        if (begun >= sizeof names - sizeof NAMES)
            fail("the names of what is passed are too long");
    }
    strcpy(names + begun, NAMES);
    setenv("NOTIFY_SOCKET", notify, 1);
    setenv("SOCKETKEEP_GUARDED", guarded, 1);
    setenv("LISTEN_FDNAMES", names, 1);
    setenv("PWD", guard.directory, 1);
    set_number("FDSTORE", guard.most);
    set_number("WATCHDOG_USEC", (long)(SILENCE * 1e6));
    set_number("WATCHDOG_PID", getpid());
    set_number("LISTEN_PID", getpid());
    set_number("LISTEN_FDS", passed);
}

/* Execute the keeper, in the child that is to be it. */
static _Noreturn void execute_keeper(void)
{
    int count = 0;
    int *fds = need(calloc(guard.passed.count + 1 + guard.stored.count, sizeof *fds));
    setpgid(0, 0); /* so that a Ctrl-C in the terminal reaches the guard alone */
    if (chdir(guard.directory) < 0) /* by its name, which may lead to a newer release */
        say("cannot enter %s: %s", guard.directory, strerror(errno));
    for (size_t each = 0; each < guard.passed.count; each++)
        fds[count++] = guard.passed.rows[each].fd;
    int names = memfd_create("socketkeep-guard", MFD_CLOEXEC);
    if (names < 0)
        fail("cannot pass what is stored");
    fds[count++] = names;
    for (size_t each = 0; each < guard.stored.count; each++) {
        if (each)
            dprintf(names, "%c", 0);
        dprintf(names, "%s", guard.stored.rows[each].name);
        fds[count++] = guard.stored.rows[each].fd;
    }
    set_variables(count);
    lay_out(fds, count);
    signal(SIGPIPE, SIG_DFL);
    execv(guard.command[0], guard.command);
    fail("cannot execute the keeper");
}

static void start_keeper(void)
{
    guard.starts++;
    guard.speaks = false;
    guard.started_at = guard.heard_at = now();
    guard.start_at = 0;
    pid_t pid = fork();
    if (pid == 0)
        execute_keeper();
    guard.keeper = pid > 0 ? pid : 0;
    if (pid < 0) {
        say("cannot start the keeper: %s", strerror(errno));
        guard.start_at = now() + LONGEST;
    }
}

/* Becoming the version of the guard that is installed. */

/* Try the command that the keeper has named, its words apart by US (0x1f). */
static void renew(const char *words)
{
    if (guard.renewal)
        return;
    size_t most = 4; /* PLAN or --check, NULL, and two to spare */
    for (const char *each = words; *each; each++)
        most += *each == '\x1f';
    free(guard.next);
    free(guard.next_text);
    guard.next_text = need(strdup(words));
    guard.next = need(calloc(most, sizeof *guard.next));
    char *rest = guard.next_text, *each;
    for (most = 0; (each = strsep(&rest, "\x1f"));)
        guard.next[most++] = each;
    guard.next[most] = "--check";
    guard.renewal = fork();
    if (guard.renewal == 0) {
        signal(SIGPIPE, SIG_DFL);
        execv(guard.next[0], guard.next);
        _exit(1);
    }
    if (guard.renewal < 0) {
        say("the guard stays as it is: %s", strerror(errno));
        guard.renewal = 0;
    }
}

static void become_next(void)
{
    size_t count = 0, more = 0;
    char plan[24];
    while (strcmp(guard.next[count], "--check") != 0)
        count++;
    while (guard.command[more])
        more++;
    char **arguments = need(calloc(count + more + 2, sizeof *arguments));
    memcpy(arguments, guard.next, count * sizeof *arguments);
    arguments[count] = plan;
    memcpy(arguments + count + 1, guard.command, more * sizeof *arguments);
    int fd = write_plan();
    snprintf(plan, sizeof plan, "%d", fd);
    if (fd >= 0) {
        execv(arguments[0], arguments);
        close(fd);
    }
    say("the guard stays as it is: %s", strerror(errno));
    free(arguments);
}

/* What the keeper says. */

/* Do what it asks for; return whether the descriptor, -1: none, is kept. */
static bool act(char *text, int fd)
{
    char value[LARGEST + 1], name[LARGEST + 1];
    guard.heard_at = now();
    if (word(text, "READY", value, sizeof value)) {
        guard.ready = 1;
        guard.speaks = true;
        for (size_t each = 0; each < sizeof FORWARDED / sizeof *FORWARDED; each++)
            if (sigismember(&guard.owed, FORWARDED[each]))
                kill(guard.keeper, FORWARDED[each]);
        sigemptyset(&guard.owed);
    }
    if (word(text, "STOPPING", value, sizeof value))
        guard.ending = true;
    if (word(text, "X_SOCKETKEEP_RENEW", value, sizeof value))
        renew(value);
    if (word(text, "BARRIER", value, sizeof value))
        return fd >= 0 && close_in_turn(&guard.link, fd);
    if (!word(text, "FDNAME", name, sizeof name) || !*name)
        return false;
    if (word(text, "FDSTOREREMOVE", value, sizeof value)) {
        if (drop(&guard.stored, name))
            tell(&guard.link, "FDSTOREREMOVE", name, -1);
        return false;
    }
    bool kept = word(text, "FDSTORE", value, sizeof value) && fd >= 0
        && guard.stored.count < (size_t)guard.most && put(&guard.stored, name, fd);
    if (kept)
        tell(&guard.link, "FDSTORE", name, fd);
    return kept;
}

/* Take all that it has said; anybody can send here, and the kernel says who it was. */
static void hear(void)
{
    char text[LARGEST + 1];
    int fds[MOST_AT_ONCE];
    size_t count;
    pid_t who;
    while (receive(guard.socket, text, fds, &count, &who) >= 0) {
        bool kept = guard.keeper && who == guard.keeper && act(text, count ? fds[0] : -1);
        for (size_t each = kept; each < count; each++)
            close(fds[each]);
    }
}

/* Signals and ends. */

/* End as the keeper has ended; code: minus the signal that has killed it. */
static _Noreturn void exit_as(int code)
{
    if (code < 0) {
        struct rlimit none = {0, 0}; /* there is no core of this to look at */
        sigset_t signals;
        setrlimit(RLIMIT_CORE, &none);
        signal(-code, SIG_DFL);
        sigemptyset(&signals);
        sigaddset(&signals, -code);
        sigprocmask(SIG_UNBLOCK, &signals, NULL);
        kill(getpid(), -code);
        code = 128 - code; /* the first process of a container is not killed so */
    }
    _exit(code);
}

/* known: it was a child of this, so that `code` is how it ended. */
static void keeper_ended(int code, bool known)
{
    guard.keeper = 0;
    /* One that cannot even begin, in the place of one that served, is no reason to let go of what
     * that one has left: its files may be whole again soon. */
    if (guard.ending || !guard.ready || (known && code == 0)) {
        finish_link(&guard.link);
        exit_as(code);
    }
    const char *how = !known ? "not known" : code < 0 ? "killed by signal %d" : "exit code %d";
    snprintf(guard.cause, sizeof guard.cause, how, abs(code));
    guard.speaks = false;
    bool brief = now() - guard.started_at < SETTLED;
    guard.delay = !brief ? 0 : guard.delay * 2 < SHORTEST ? SHORTEST : guard.delay * 2;
    guard.delay = guard.delay > LONGEST ? LONGEST : guard.delay;
    guard.start_at = now() + guard.delay;
}

/* Reap every child, the orphans of earlier keepers included. */
static void reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        if (pid == guard.keeper) {
            hear(); /* what it has said last */
            keeper_ended(code, true);
        } else if (pid == guard.renewal) {
            guard.renewal = 0;
            if (code == 0)
                become_next();
            else
                say("the guard stays as it is: the installed one does not run");
        }
    }
}

static void take_signals(void)
{
    struct signalfd_siginfo signal;
    while (read(guard.signals, &signal, sizeof signal) == sizeof signal) {
        int number = (int)signal.ssi_signo;
        if (number == SIGCHLD) {
            reap();
            continue;
        }
        if (number == SIGTERM || number == SIGINT || number == SIGQUIT) {
            guard.ending = true;
            if (!guard.speaks) {
                /* What earlier keepers have left has to be ended by one that has taken it over. */
                sigaddset(&guard.owed, number);
                guard.start_at = guard.start_at > 0 ? now() : 0;
                continue;
            }
        }
        if (guard.pidfd >= 0)
            syscall(SYS_pidfd_send_signal, guard.pidfd, number, NULL, 0);
        else if (guard.keeper)
            kill(guard.keeper, number); /* reaped by this process alone, so it is that */
    }
}

/* Kill a keeper whose loop stands still, unless somebody has stopped it. */
static void end_silent(void)
{
    char path[64], text[512] = "";
    guard.heard_at = now();
    snprintf(path, sizeof path, "/proc/%d/stat", guard.keeper);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    const char *state = length > 0 ? strrchr(text, ')') : NULL;
    if (guard.ready && state && !strchr("Tt", state[2])) {
        say("the keeper (%d) is killed: no word of it for %g s", guard.keeper, SILENCE);
        kill(guard.keeper, SIGKILL);
    }
}

/* What it has ended like is told to its own parent alone. */
static void parent_ended(void)
{
    hear();
    if (guard.pidfd >= 0)
        close(guard.pidfd);
    guard.pidfd = -1;
    keeper_ended(0, false);
}

/* Watch a keeper that is no child of this guard, but has started it in the place of a dead one. */
static void watch_parent(void)
{
    siginfo_t unused;
    if (!guard.keeper || waitid(P_PID, (id_t)guard.keeper, &unused, WEXITED | WNOHANG | WNOWAIT) == 0)
        return;
    guard.pidfd = (int)syscall(SYS_pidfd_open, guard.keeper, 0);
    if (guard.pidfd < 0 || getppid() != guard.keeper)
        parent_ended();
}

/* How many milliseconds may pass until something is to be done. */
static int patience(void)
{
    double until = guard.start_at > 0 ? guard.start_at : guard.heard_at + SILENCE;
    if (is_lost(&guard.link) && guard.link.reconnect_at < until)
        until = guard.link.reconnect_at;
    double left = until - now();
    return left < 0 ? 1 : (int)(left * 1000) + 1;
}

static _Noreturn void run(void)
{
    reap(); /* what ended before */
    watch_parent();
    if (is_lost(&guard.link)) /* before a barrier is heard, which would not wait for it */
        reconnect(&guard.link, &guard.stored);
    while (true) {
        struct pollfd fds[] = {
            {.fd = guard.signals, .events = POLLIN},
            {.fd = guard.socket, .events = POLLIN},
            {.fd = guard.link.fd, .events = guard.link.first ? POLLIN | POLLOUT : POLLIN},
            {.fd = guard.pidfd, .events = POLLIN},
        };
        poll(fds, 4, patience());
        if (fds[0].revents)
            take_signals();
        if (fds[1].revents)
            hear();
        if (fds[2].revents)
            look_after(&guard.link, fds[2].revents);
        if (fds[3].revents)
            parent_ended();
        if (is_lost(&guard.link) && now() >= guard.link.reconnect_at)
            reconnect(&guard.link, &guard.stored);
        if (guard.start_at > 0) {
            if (now() >= guard.start_at)
                start_keeper();
        } else if (now() - guard.heard_at > SILENCE) {
            end_silent();
        }
    }
}

static void set_up(void)
{
    struct rlimit limit;
    sigset_t signals;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (int timer = ITIMER_REAL; timer <= ITIMER_PROF; timer++) { /* inherited, they would end it */
        struct itimerval off = {0};
        setitimer((__itimer_which_t)timer, &off, NULL);
    }
    prctl(PR_SET_NAME, "socketkeep");
    sigemptyset(&signals);
    sigemptyset(&guard.owed);
    for (size_t each = 0; each < sizeof FORWARDED / sizeof *FORWARDED; each++)
        sigaddset(&signals, FORWARDED[each]);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_SETMASK, &signals, NULL);
    signal(SIGCHLD, SIG_DFL); /* one that was ignored would have no exit status */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_DFL); /* which Python ignores */
    guard.signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (guard.signals < 0)
        fail("cannot hear signals");
    guard.pidfd = guard.link.fd = -1;
    guard.link.last = &guard.link.first;
}

int main(int count, char **arguments)
{
    if (count > 1 && strcmp(arguments[1], "--check") == 0)
        return 0;
    if (count == 4 && strcmp(arguments[1], "--listen") == 0)
        serve_sidecar(atoi(arguments[2]), (size_t)atol(arguments[3]));
    if (count < 3) {
        fprintf(stderr, "usage: guard PLAN COMMAND...: it is started by socketkeep serve\n");
        return 2;
    }
    set_up();
    read_plan(atoi(arguments[1]));
    fcntl(guard.socket, F_SETFL, O_NONBLOCK);
    guard.command = arguments + 2;
    guard.started_at = guard.heard_at = now();
    if (*guard.link.sidecar && !guard.starts && !guard.keeper) {
        char why[LARGEST];
        guard.starts = -1; /* the keeper that is started is the first one */
        if (!open_link(&guard.link, &guard.stored, false, why)) {
            say("cannot use the guard at %s: %s", guard.link.sidecar, why);
            return 1;
        }
    }
    if (!guard.keeper)
        guard.start_at = guard.started_at;
    run();
}
