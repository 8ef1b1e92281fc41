/* The load itself: open, warm up, measure, let what is under way end, and tell. */
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum phase { OPENING, WARMING, MEASURING, DRAINING };
enum { OPENING_AT_ONCE = 64, ARRIVING_AT_ONCE = 512, EVENTS = 256 };

static const int64_t MS = 1000000, NEVER = INT64_MAX;
static const char *const loss_names[LOSSES] = {
    "refused", "reset", "cut", "closed", "announced", "late", "wrong",
};

struct group { /* the connections that stay, and those of --arrivals */
    struct counts counts;
    struct histogram latency;
};

static struct {
    int epoll;
    enum phase phase;
    struct conn *conns;
    int total;
    int next; /* to be opened */
    int busy;
    struct conn **resting; /* a ring of those whose turn will come, where not all go at once */
    int first, waiting;
    struct group groups[2];
    uint64_t answered; /* since the start, warming up and what was under way at the end included */
    int64_t started, began, ended, arrival_due;
    double cpu;
    FILE *samples;
} all;

static struct group *group_of(const struct conn *conn)
{
    return &all.groups[conn->id >= (uint32_t)options.connections];
}

static void sample(const struct conn *conn, uint32_t kind, int64_t now)
{
    struct {
        uint32_t conn, kind;
        int64_t began, took;
    } record = {conn->id, kind, conn->began, now - conn->began};
    if (all.samples && all.phase != OPENING)
        fwrite(&record, sizeof record, 1, all.samples);
}

static void lose(struct conn *conn, enum loss loss, int64_t now)
{
    group_of(conn)->counts.losses[loss]++;
    sample(conn, 1 + loss, now);
    all.busy -= conn->state == BUSY;
    conn_close(conn);
    bool again = all.phase != OPENING && all.phase != DRAINING
                 && conn->id < (uint32_t)options.connections
                 && (options.mode == SHORT || options.mode == PACED);
    if (again) {
        conn->state = RESTING;
        conn->due = now + (loss == REFUSED ? 10 * MS : MS);
    }
}

static void request(struct conn *conn, int64_t now)
{
    enum loss loss;
    conn->began = now;
    all.busy++;
    if (conn->fd >= 0) {
        if (!conn_begin(conn, all.epoll, &loss))
            lose(conn, loss, now);
        return;
    }
    group_of(conn)->counts.opened++;
    conn->state = BUSY;
    if (!conn_open(conn, all.epoll, &loss))
        lose(conn, loss, now);
}

static void rest(struct conn *conn)
{
    conn->state = RESTING;
    conn->due = NEVER;
    all.resting[(all.first + all.waiting++) % options.connections] = conn;
}

static struct conn *rested(void)
{
    struct conn *conn = all.resting[all.first];
    all.first = (all.first + 1) % options.connections;
    all.waiting--;
    return conn;
}

static void open_more(int64_t now)
{
    while (all.next < options.connections && all.busy < OPENING_AT_ONCE)
        request(&all.conns[all.next++], now);
}

static void done(struct conn *conn, int64_t now)
{
    struct group *group = group_of(conn);
    all.busy--;
    all.answered += all.phase != OPENING;
    if (all.phase == MEASURING) {
        group->counts.exchanges++;
        histogram_add(&group->latency, now - conn->began);
    }
    sample(conn, 0, now);
    if (conn->brief) {
        conn_close(conn);
        if (options.mode == SHORT && all.phase != DRAINING)
            request(conn, now);
    } else if (all.phase == OPENING) {
        rest(conn);
        open_more(now);
    } else if (conn->closing || all.phase == DRAINING) {
        conn->state = RESTING;
        conn->due = NEVER;
    } else if (options.mode == PACED) {
        conn->state = RESTING;
        conn->due = now + (int64_t)(options.think * 1e9);
    } else {
        rest(conn);
        request(rested(), now);
    }
}

/* What falls due by the clock. */
static void tick(int64_t now)
{
    for (int i = 0; i < all.total; i++) {
        struct conn *conn = &all.conns[i];
        if (conn->state == BUSY && now - conn->began > (int64_t)(options.deadline * 1e9))
            lose(conn, LATE, now);
        else if (conn->state == RESTING && conn->due <= now && all.phase != DRAINING)
            request(conn, now);
    }
    if (!options.arrivals || all.phase == OPENING || all.phase == DRAINING)
        return;
    for (int i = options.connections; i < all.total && all.arrival_due <= now; i++)
        if (all.conns[i].state == UNUSED) {
            request(&all.conns[i], now);
            all.arrival_due += (int64_t)(1e9 / options.arrivals);
        }
}

static void handle(struct conn *conn, uint32_t events)
{
    enum loss loss;
    bool is_done = false, live = true;
    if (conn->fd < 0) /* closed by an earlier event of the same wait */
        return;
    if (events & EPOLLOUT && conn->state == BUSY)
        live = conn_send(conn, all.epoll, &loss);
    if (live && events & ~(uint32_t)EPOLLOUT)
        live = conn_receive(conn, all.epoll, &is_done, &loss);
    if (!live)
        lose(conn, loss, now_ns());
    else if (is_done)
        done(conn, now_ns());
}

/* Return false when standard input says that it is enough. */
static bool turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    bool goes_on = true;
    int count = epoll_wait(all.epoll, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++)
        if (events[i].data.ptr)
            handle(events[i].data.ptr, events[i].events);
        else
            goes_on = false;
    return goes_on;
}

static void turns_until(int64_t end, bool while_busy)
{
    int interval = options.mode == PACED ? 1 : 10;
    int64_t ticked = 0;
    for (;;) {
        int64_t now = now_ns();
        if (now - ticked >= interval * MS) {
            ticked = now;
            tick(now);
        }
        if (now >= end || (while_busy && !all.busy))
            return;
        int64_t left = (end - now + MS - 1) / MS;
        if (!turn(left < interval ? (int)left : interval))
            return;
    }
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

static void print_group(const struct group *group, double seconds)
{
    printf("\"opened\": %lu, \"exchanges\": %lu, \"per_second\": %.1f", group->counts.opened,
           group->counts.exchanges,
           (double)group->counts.exchanges * options.batch / seconds);
    printf(", \"p50\": %.6f, \"p99\": %.6f, \"max\": %.6f",
           histogram_quantile(&group->latency, 0.5), histogram_quantile(&group->latency, 0.99),
           (double)group->latency.most / 1e9);
    for (int i = 0; i < LOSSES; i++)
        printf(", \"%s\": %lu", loss_names[i], group->counts.losses[i]);
}

static void set_up(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = NULL}};
    all.total = options.connections + (options.arrivals ? ARRIVING_AT_ONCE : 0);
    all.conns = calloc((size_t)all.total, sizeof *all.conns);
    all.resting = calloc((size_t)options.connections, sizeof(struct conn *));
    all.epoll = epoll_create1(EPOLL_CLOEXEC);
    all.samples = options.samples ? fopen(options.samples, "w") : NULL;
    if (!all.conns || !all.resting || all.epoll < 0 || (options.samples && !all.samples)) {
        perror("load");
        exit(1);
    }
    /* The end of standard input ends the loads that go on for as long as is wanted. */
    if ((options.mode == PACED || options.mode == IDLE)
        && epoll_ctl(all.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0) {
        perror("load: standard input must be a pipe");
        exit(1);
    }
    for (int i = 0; i < all.total; i++) {
        all.conns[i].fd = -1;
        all.conns[i].id = (uint32_t)i;
        all.conns[i].brief = options.mode == SHORT || i >= options.connections;
    }
}

static void open_all(void)
{
    all.phase = OPENING;
    if (options.mode != SHORT)
        open_more(now_ns());
    while (options.mode != SHORT && (all.busy || all.next < options.connections)) {
        turns_until(now_ns() + 10 * MS, true);
        open_more(now_ns());
    }
    if (options.wait) {
        say("opened");
        if (getchar() == EOF)
            exit(0);
    }
}

static void start(int64_t now)
{
    int at_once = options.at_once ? options.at_once : options.connections;
    all.phase = WARMING;
    all.started = all.arrival_due = now;
    if (options.mode == SHORT)
        for (int i = 0; i < at_once; i++)
            request(&all.conns[i], now);
    else if (options.mode == ECHO)
        for (int i = 0; i < at_once && all.waiting; i++)
            request(rested(), now);
    else if (options.mode == PACED)
        for (int i = 0; all.waiting; i++)
            rested()->due = now + (int64_t)(options.think * 1e9 * i / options.connections);
}

void run(void)
{
    set_up();
    open_all();
    start(now_ns());
    turns_until(now_ns() + (int64_t)(options.warm * 1e9), false);

    all.phase = MEASURING;
    all.cpu = cpu_seconds();
    all.began = now_ns();
    say("begin");
    turns_until(all.began + (int64_t)(options.seconds * 1e9), false);
    all.phase = DRAINING;
    all.ended = now_ns();
    all.cpu = cpu_seconds() - all.cpu;
    say("end");
    turns_until(NEVER, true);

    double span = (double)(now_ns() - all.started) / 1e9;
    double seconds = (double)(all.ended - all.began) / 1e9;
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"span\": %.6f, \"answered\": %lu, ", seconds, all.cpu,
           span, all.answered * (uint64_t)options.batch);
    print_group(&all.groups[0], seconds);
    if (options.arrivals) {
        printf(", \"arrivals\": {");
        print_group(&all.groups[1], seconds);
        printf("}");
    }
    say("}");
    if (options.hold)
        while (getchar() != EOF)
            ;
    if (all.samples && fclose(all.samples)) {
        perror("load: --samples");
        exit(1);
    }
}
