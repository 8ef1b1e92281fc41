/* A load generator for servers that echo: load MODE PORT [OPTIONS].
 *
 * short  connect, one exchange, close, again
 * echo   connections that stay, each asking again as soon as it is answered
 * paced  connections that stay, each asking again some time after it was answered
 * idle   connections that are opened, asked once, and held
 *
 * One processor, one thread, every byte checked.  It says "begin" and "end" on standard output when
 * the measurement does, and then one line of JSON.  With --wait it says "opened" before, and waits
 * for a line on standard input; "answered" and "span" of the JSON count from there to the very end.  The end of standard input, or a further line, ends paced and idle.
 * With --hold it keeps its connections, after the JSON, until standard input ends.
 */
#include "load.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct options options = {
    .host = "127.0.0.1",
    .connections = 1,
    .size = 64,
    .batch = 1,
    .body = "hello\n",
    .seconds = 1,
    .warm = 0.05,
    .deadline = 5,
    .think = 0.1,
};

static const char usage[] =
    "usage: load short|echo|paced|idle PORT [--host A.B.C.D] [--connections N] [--at-once N]\n"
    "            [--size BYTES] [--lines] [--batch N] [--http] [--body TEXT] [--websocket]\n"
    "            [--seconds S] [--warm S] [--deadline S] [--think S] [--arrivals PER-SECOND] [--wait] [--hold]\n"
    "            [--samples FILE] [--tls]\n";

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n%s", what, usage);
    exit(2);
}

static double number(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most)) {
        fprintf(stderr, "load: %s: expected a number from %g to %g\n", text, least, most);
        exit(2);
    }
    return value;
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, 0, 'h'},    {"connections", 1, 0, 'c'}, {"at-once", 1, 0, 'a'},
        {"size", 1, 0, 's'},    {"lines", 0, 0, 'l'},       {"batch", 1, 0, 'b'},
        {"websocket", 0, 0, 'F'},
        {"http", 0, 0, 'H'},    {"body", 1, 0, 'B'},        {"seconds", 1, 0, 't'},
        {"warm", 1, 0, 'w'},    {"deadline", 1, 0, 'd'},    {"think", 1, 0, 'k'},
        {"wait", 0, 0, 'W'},    {"arrivals", 1, 0, 'r'},    {"samples", 1, 0, 'S'},
        {"hold", 0, 0, 'O'},    {"tls", 0, 0, 'T'},         {0, 0, 0, 0},
    };
    static const char *const modes[] = {"short", "echo", "paced", "idle"};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1)
        switch (option) {
        case 'h': options.host = optarg; break;
        case 'c': options.connections = (int)number(optarg, 1, 100000); break;
        case 'a': options.at_once = (int)number(optarg, 0, 100000); break;
        case 's': options.size = (size_t)number(optarg, 2, 1 << 20); break;
        case 'l': options.lines = true; break;
        case 'b': options.batch = (int)number(optarg, 1, 1024); break;
        case 'H': options.http = true; break;
        case 'F': options.websocket = true; break;
        case 'B': options.body = optarg; break;
        case 't': options.seconds = number(optarg, 0.001, 600); break;
        case 'w': options.warm = number(optarg, 0, 600); break;
        case 'd': options.deadline = number(optarg, 0.001, 600); break;
        case 'k': options.think = number(optarg, 0, 600); break;
        case 'W': options.wait = true; break;
        case 'O': options.hold = true; break;
        case 'T': options.tls = true; break;
        case 'r': options.arrivals = number(optarg, 0, 10000); break;
        case 'S': options.samples = optarg; break;
        default: fail("unknown option");
        }
    if (argc - optind != 2)
        fail("expected a mode and a port");
    int mode = 0;
    while (mode < 4 && strcmp(argv[optind], modes[mode]) != 0)
        mode++;
    if (mode == 4)
        fail("unknown mode");
    options.mode = (enum mode)mode;
    options.port = (int)number(argv[optind + 1], 1, 65535);
    if (options.at_once > options.connections)
        fail("--at-once is more than --connections");
}

static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if ((rlim_t)options.connections + 1024 > limit.rlim_cur) {
        fprintf(stderr, "load: %d connections: the limit of descriptors is %lu; raise it (ulimit -n)\n",
                options.connections, (unsigned long)limit.rlim_cur);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    raise_limit();
    messages_make();
    run();
    return 0;
}
