"""The events of the log, declared: each line that a server can write, and what to do about it.

No server reads this: docs/reference/events.md is made of it, and a test compares it with the code.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Event(NamedTuple):
    """A line of the log.

    levels, fields: separated by blanks; a field that ends in ``*`` stands for all that begin so.
    remedy: what an operator does, "" where nothing is to be done.  bounded: a process writes it at
    most once in ten seconds for each kind, with `repeated` for those that it held back.
    """

    name: str
    levels: str
    fields: str
    meaning: str
    remedy: str = ""
    bounded: bool = False


_WORKER: Final = "slot pid generation"
_CONNECTION: Final = "id peer"

_OUT: Final = (
    "Raise the limit that `error` is about: `LimitNOFILE=` or `ulimit -n` for descriptors,"
    " `TasksMax=` or `ulimit -u` for processes and threads."
)
_REPORT: Final = "Report it, with the line. The server goes on."
_HOSTILE: Final = (
    "Look for what the code does to descriptors and memory that are not its own: C extensions,"
    " `os.closerange`, a fork without exec. If there is nothing of the kind, report it."
)

EVENTS: Final[dict[str, tuple[Event, ...]]] = {
    "Start and stop": (
        Event(
            "listening",
            "info",
            "address serves name",
            "The code is loaded, the workers are ready, and the address is served; who connected"
            " before has waited. `serves` says so where that is IPv6 and IPv4, `name` where systemd"
            " has given the listener one.",
        ),
        Event("control", "info", "name path", "The control socket is there, for commands."),
        Event("admin", "info", "url", "The live page and the metrics are served there."),
        Event("agent check", "info", "address", "HAProxy's agent checks are answered there."),
        Event(
            "working directory",
            "info",
            "path leads_to",
            "The name by which reloads find the directory, and where it leads now.",
        ),
        Event(
            "inherited, and put in order",
            "warning",
            "what",
            "Whoever started the server left it a setting that would have harmed it.",
            "Start it without: `what` names the setting.",
        ),
        Event("starting", "info", "generation", "The code is being loaded."),
        Event(
            "served as ASGI, since it takes scope, receive, send",
            "info",
            "target",
            "The target is an ASGI application, and `--asgi` was not given.",
            "Give `--asgi`, so that it does not depend on a guess.",
        ),
        Event(
            "ready",
            "info",
            "generation workers connections",
            "The workers of the first generation serve.",
        ),
        Event(
            "TCP Fast Open has no effect: set net.ipv4.tcp_fastopen to 3",
            "warning",
            "address tcp_fastopen",
            "`--tcp-fastopen` was given, and the kernel does not do it.",
            "`sysctl -w net.ipv4.tcp_fastopen=3`, or leave the option out.",
        ),
        Event(
            "file named like a standard module, which imports find",
            "warning",
            "path",
            "A file of the application has the name of a standard module, which is imported"
            " instead of it.",
            "Rename the file.",
        ),
        Event(
            "the code started a thread at import; workers will not have it",
            "warning",
            "thread generation",
            "Threads do not survive a fork, and workers are forked after the import.",
            "Start it in the lifespan of a `Service`.",
        ),
        Event(
            "the code closes descriptors that it has not opened, as os.closerange does and what"
            " makes a daemon of its process: it cannot be served",
            "error",
            "",
            "The code has closed the server's own descriptors.",
            "Take the daemonizing out of the code.",
        ),
        Event("stopping", "info", "", "The server closes its connections and ends."),
        Event("draining", "info", "", "The server lets its connections end by themselves."),
        Event(
            "stopping at once",
            "info",
            "",
            "The second signal or command: handlers are given no time.",
        ),
        Event(
            "leaving: what is stored waits for the next server",
            "info",
            "",
            "The server ends, and its guard holds listeners and connections for the next one.",
        ),
        Event(
            "accept queues taken in",
            "info",
            "connections",
            "So many waited in the kernel's queue when the server was told to end; they are served"
            " first.",
        ),
        Event(
            "accept queue left to another process",
            "info",
            "address",
            "Another process has the listener too, and serves what waits there.",
        ),
        Event(
            "process killed: it was nobody's, and had a listener",
            "warning",
            "pid",
            "A process that the code had forked still had the port when the server ended.",
            "End it in the code, or start it with `subprocess`, which passes no listener.",
        ),
        Event(
            "ended by force",
            "error",
            "processes connections",
            "The server did not end by itself in time.",
            "See which worker did not end, in the lines before. " + _REPORT,
        ),
        Event("stopped", "info", "", "The server has ended. It is its last line."),
    ),
    "Reloads and upgrades": (
        Event("reload asked for", "info", "", "By a signal, a command or the service manager."),
        Event("reload started", "info", "generation", "The new code is being loaded."),
        Event(
            "reload done",
            "info",
            "generation workers connections",
            "The new generation serves; so many connections are on their way to it.",
        ),
        Event(
            "reload failed",
            "error",
            "generation error_text",
            "The new code could not be loaded or did not become ready. The old one serves on.",
            "Mend what `error_text` says, and reload again.",
        ),
        Event(
            "no code to serve by: what is held waits",
            "error",
            "error_text connections again",
            "An earlier keeper has left connections or workers, and this one cannot load the code."
            " It keeps them, and loads the code again after `again` seconds.",
            "Mend what `error_text` says. A reload tries it at once.",
        ),
        Event(
            "options changed",
            "info",
            "*",
            "The reload goes by other options than the server did: each by its key, with what it"
            " was and what it is.",
        ),
        Event(
            "options need a restart",
            "warning",
            "*",
            "The settings file has other values for these options, which a reload cannot change.",
            "Restart the server, or take the values back.",
        ),
        Event(
            "the handler is not resumable: at a reload its connections stay with the old code",
            "info",
            "target generation",
            "Said of each generation before it serves.",
            "`@resumable` and `conn.commit()`, if they are to move.",
        ),
        Event(
            "the handler answers and never commits: call conn.commit() where a message is dealt"
            " with, or no reload moves its connections",
            "warning",
            "target generation",
            "Said of each generation before it serves, by the handler's code.",
            "Call `conn.commit()`, or use an iterator with `commit=True`.",
        ),
        Event(
            "earlier code gone",
            "info",
            "generation moved ended cut_*",
            "The last worker that `generation` has replaced has ended: so many of its connections"
            " moved, ended by themselves, or were cut, by reason (`cut_uncommitted`).",
            "Where connections were cut: `socketkeep reload --dry-run` tells it beforehand.",
        ),
        Event("watching", "info", "", "`--reload`: the source files are watched."),
        Event("changed", "info", "path", "A source file has changed, and a reload follows."),
        Event(
            "the watcher ended: files are watched no more",
            "error",
            "",
            "The process that watches the files has ended.",
            "Restart the server, or reload by `socketkeep reload`.",
        ),
        Event(
            "working directory changed",
            "info",
            "path was now",
            "The name led to another directory at this reload.",
        ),
        Event(
            "working directory stays",
            "warning",
            "path name error",
            "The directory cannot be entered by its name, so the one there was stays.",
            "Look at `error`; `--chdir` names a directory that reloads can follow.",
        ),
        Event("accepting paused until the next reload", "info", "", "SIGWINCH was sent."),
        Event("scaled", "info", "workers", "There are so many workers now."),
        Event("rebalancing", "debug", "connections", "So many are to move to other workers."),
        Event("upgrade asked for", "info", "", "By SIGUSR2 or `socketkeep upgrade`."),
        Event("upgrade started", "info", "", "The keeper becomes the installed version."),
        Event(
            "upgraded",
            "info",
            "version generation away",
            "The keeper is the installed version; `away` are the seconds between.",
        ),
        Event(
            "upgrade refused",
            "error",
            "error_text",
            "The installed version cannot go on from here; this one goes on.",
            "Do what `error_text` says.",
        ),
        Event(
            "template ended",
            "error",
            "generation error_text",
            "The process that forks workers has died. Workers serve on; it is started again.",
            "Look at `error_text`: it ran the code's import.",
        ),
        Event(
            "cannot start a template",
            "warning",
            "error",
            "The system has no room for the process that loads the code. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "template killed: what it said cannot be",
            "error",
            "why generation",
            "The process that loads the code sent the keeper what makes no sense.",
            _HOSTILE,
            bounded=True,
        ),
        Event(
            "the socket's file was gone and is made anew",
            "warning",
            "address",
            "Somebody had removed a Unix listener's file; the reload made it again.",
            "Find who cleans that directory.",
        ),
        Event(
            "the socket's file is gone and cannot be made anew",
            "warning",
            "error",
            "The listener goes on, and nobody can reach it by its name.",
            "Mend what `error` says, then reload.",
        ),
    ),
    "Workers": (
        Event("worker ready", "info", _WORKER, "The worker accepts connections."),
        Event(
            "worker exited",
            "info warning",
            f"{_WORKER} status moved error_text",
            "The worker has ended: at info as it was to, with how many of its connections had moved"
            " to others; at warning it has died.",
            "At warning: `status` names the signal. `exit 1` without a traceback before it is the"
            " code's own `os._exit`; `SIGKILL` may be the system's for want of memory (`dmesg`).",
        ),
        Event(
            "connections after a death",
            "info",
            f"{_WORKER} resumed redelivered lost_*",
            "What became of the connections of a worker, or of a process of it, that died: so many"
            " are `resumed` from their last commit, `redelivered` their last message, or lost, by"
            " reason: `lost_uncommitted`, `lost_not_kept` (not resumable, or `--keep` is not"
            " `crash`), `lost_reply_unknown` (a reply was on its way over an edge that cannot be"
            " asked how much of it has gone out), `lost_poisoned`, `lost_told_to_end`,"
            " `lost_stopping`, `lost_no_account`.",
            "Of those lost uncommitted: `commit` where a message is dealt with, or"
            " `redeliver=True`. Of those not kept: `--keep crash`.",
        ),
        Event(
            "recycling worker",
            "info",
            f"{_WORKER} reason",
            "It is replaced: for its age or its memory, as the options say, or since handlers of it"
            " did not end.",
            "`handlers that did not end`: see `handler goes on without its connection`.",
        ),
        Event(
            "worker killed: it made no progress",
            "error",
            f"{_WORKER} waited",
            "It has not answered for `--worker-timeout`: a handler computes or blocks.",
            "Look at what the handler waits for (`py-spy dump --pid`). Blocking calls in async"
            " handlers go to `asyncio.to_thread`; longer work needs a longer time.",
        ),
        Event(
            "worker killed: it did not end in time",
            "warning",
            f"{_WORKER} open",
            "Handlers went on after `--graceful-timeout`.",
            "Raise it, or make handlers heed `conn.leaving`.",
        ),
        Event(
            "worker killed: what it said cannot be",
            "error",
            f"{_WORKER} why",
            "It sent the keeper what makes no sense. Its connections are dealt with as after its"
            " death.",
            _HOSTILE,
            bounded=True,
        ),
        Event(
            "worker killed: its scoreboard is none",
            "error",
            "pid error",
            "An upgraded keeper could not read what the worker serves.",
            _REPORT,
        ),
        Event(
            "worker killed: it did not come to be taken over",
            "warning",
            "pid",
            "The keeper had died while a connection was on its way to this worker.",
        ),
        Event(
            "rows that make no sense",
            "warning",
            f"{_WORKER} rows",
            "A worker that died has left so many entries that cannot be.",
            _HOSTILE,
        ),
        Event(
            "refused a message",
            "error",
            f"{_WORKER} why",
            "A descriptor was not what it was to be, as when a handler closes the descriptor of its"
            " connection.",
            "Close connections by `conn.close()`, and never by their descriptor's number.",
            bounded=True,
        ),
        Event(
            "refused a stale message",
            "error",
            f"{_WORKER} id error",
            "A worker spoke of a connection that it no longer has.",
            "One after a death is no harm. " + _REPORT,
            bounded=True,
        ),
        Event(
            "refused a connection without a descriptor",
            "error",
            f"{_WORKER} id",
            "A worker gave up a connection that the keeper does not know.",
            _REPORT,
            bounded=True,
        ),
        Event(
            "message ignored: this version cannot read it",
            "warning",
            "type error",
            "The process at the other end is of a newer version.",
            "Upgrade all of the server: `socketkeep upgrade`.",
        ),
        Event(
            "message ignored: it is too large",
            "warning",
            "error",
            "A process sent more than a message may have.",
            _REPORT,
        ),
        Event(
            "message ignored: it is none",
            "warning",
            "error",
            "A process sent bytes that are no message.",
            _HOSTILE,
        ),
        Event(
            "cannot start a worker",
            "warning",
            "slot error",
            "The system has no room for it. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "worker adopted",
            "info",
            f"{_WORKER} connections drained",
            "A worker of a keeper that died goes on with this one; `drained` says why its"
            " connections stay there.",
        ),
        Event(
            "a process was not taken over",
            "warning",
            "pid error",
            "A process came to be adopted, and was not what it is to be.",
            "A worker of a much older version: start that version once more, and upgrade it.",
            bounded=True,
        ),
        Event(
            "a worker does not heed the limits by address: more workers than at the start need a"
            " restart of the server",
            "warning",
            "",
            "The table of addresses has room for as many workers as there were at the start.",
            "Restart the server.",
            bounded=True,
        ),
        Event(
            "workers cannot be taken over by another keeper",
            "warning",
            "error",
            "The directory in which they would wait for one cannot be opened.",
            "Give the user that serves access to the control socket's directory.",
        ),
        Event(
            "cannot be taken over by another keeper",
            "warning",
            "error",
            "The worker has no place in which to wait for the next keeper.",
            "Mend what `error` says: the control socket's directory is full, or gone.",
        ),
        Event(
            "the keeper is gone: serving what is open, then ending",
            "error",
            "",
            "The keeper has died. The worker waits for the next one of the server's name.",
            "Start the server again: it takes its workers over. Find out what killed the keeper.",
        ),
        Event("offered to another keeper", "info", "", "The worker has found the next keeper."),
        Event(
            "worker failed",
            "error",
            "traceback",
            "The worker's own loop has raised.",
            _REPORT,
        ),
    ),
    "Connections": (
        Event(
            "connected",
            "info",
            f"{_CONNECTION} listener",
            "`--connect-log`: the handler is called for a new connection.",
        ),
        Event(
            "connection",
            "info debug",
            f"{_CONNECTION} listener duration bytes_in bytes_out ended why name labels",
            "`--access-log`: a connection has ended, `closed`, `reset` or `released`; at debug it"
            " is `detached`, and goes on in another worker.",
        ),
        Event(
            "connection refused",
            "info",
            "reason peer listener why",
            "A client was turned away: by its address, a limit of its address, or its header.",
            "Where such clients are wanted: the option that `why` names.",
            bounded=True,
        ),
        Event(
            "connection timed out",
            "info",
            f"{_CONNECTION} listener why",
            "A client sent nothing in the time for its first bytes, or its deadline has passed.",
            bounded=True,
        ),
        Event(
            "connection lost",
            "warning",
            f"{_CONNECTION} {_WORKER} why",
            "A connection ended by the death of its worker. Of each death the first ten are named,"
            " and `connections after a death` counts all.",
            "See `connections after a death`, and why the worker died in `worker exited`.",
        ),
        Event(
            "poisoned",
            "error",
            f"{_CONNECTION} deaths",
            "A connection was taken for the cause of so many deaths, and reset.",
            "Look for what this peer sends: the line `worker exited` before it has the signal."
            " `--poison-limit` is how many deaths it takes.",
        ),
        Event(
            "connection closed: no worker took it",
            "warning",
            f"{_CONNECTION} waited",
            "No worker had a seat for it within `--orphan-timeout`.",
            "More `--workers` or `--threads`, or a longer time.",
        ),
        Event(
            "connection closed: the keeper did not take it",
            "warning",
            _CONNECTION,
            "A connection that was to move was closed, since the keeper had no room for it.",
            "See the keeper's lines at that time: descriptors or memory ran out.",
        ),
        Event(
            "connections that cannot be served are closed",
            "warning",
            "peer count traceback",
            "The worker could call no handler for them; `count` of them so far.",
            "Look at `traceback`: a descriptor or memory was wanting, or it is a mistake of the"
            " server's, and to be reported.",
            bounded=True,
        ),
        Event(
            "no room for more unread bytes",
            "warning",
            "most",
            "The keeper holds so many bytes of connections that move that it takes no more.",
            "`socketkeep connections` shows who sends without being read.",
            bounded=True,
        ),
        Event(
            "connections restored",
            "info",
            "connections resumed redelivered lost_*",
            "So many were in the store when the server started again; `resumed` and others count"
            " those whose workers had died, as in `connections after a death`.",
        ),
        Event(
            "connection left to its worker, which is alive",
            "warning",
            "id",
            "A worker of the keeper that died still serves it, and has not come to be taken over.",
        ),
        Event(
            "cannot restore a connection",
            "error",
            "id error",
            "What the store had of it cannot be read. It is closed.",
            _REPORT,
        ),
        Event(
            "cannot restore what a connection is called",
            "error",
            "id error",
            "It goes on without its name and groups.",
            _REPORT,
        ),
        Event(
            "what the store gave back is left alone",
            "error",
            "name error",
            "A descriptor in the store is not what its name says.",
            "See who else stores descriptors in this unit.",
        ),
        Event(
            "listener dropped: it is not configured any more",
            "warning",
            "address",
            "An earlier server had it, and this one is not told of it.",
            "Give it again by `--bind`, if it is still wanted.",
        ),
        Event(
            "nothing to adopt: no worker waits there",
            "warning",
            "path",
            "`--adopt-from` names a place where no worker waits for a keeper.",
        ),
        Event(
            "process of a connection died",
            "warning",
            f"{_CONNECTION} pid status",
            "Model `fork`: the process that served it was killed or has exited by itself.",
            "`status` names the signal or the exit code.",
        ),
        Event(
            "waiting process died",
            "warning",
            "pid status",
            "A process of `--spare` or `--child-requests`, which had no connection.",
            "`status` names the signal or the exit code.",
        ),
        Event(
            "fork snapshot",
            "info",
            "pid bytes",
            "`--fork-snapshot`: the worker forks from a copy of its memory of so many bytes.",
        ),
        Event(
            "no fork snapshot",
            "warning",
            "pid why",
            "`--fork-snapshot`: the worker cannot have one, and forks as it does without.",
            "`why` names the condition that does not hold: have it hold, or leave the option out.",
        ),
        Event(
            "connection's process failed",
            "error",
            "traceback",
            "Model `fork`: the server's part of the process has raised.",
            _REPORT,
        ),
        Event(
            "cannot park",
            "warning",
            f"{_CONNECTION} error",
            "The keeper cannot watch it, so it is given to a worker.",
            "`sysctl fs.epoll.max_user_watches` bounds how many can be watched.",
            bounded=True,
        ),
        Event(
            "cannot wait for a header",
            "warning",
            f"{_CONNECTION} error",
            "The keeper cannot watch a connection whose PROXY header is to come.",
            "`sysctl fs.epoll.max_user_watches` bounds how many can be watched.",
            bounded=True,
        ),
        Event(
            "cannot hand over yet",
            "debug",
            "id error",
            "The worker has no descriptor for the message. It tries again.",
        ),
        Event(
            "cannot be kept yet",
            "debug",
            "id error",
            "The worker has no descriptor for the message. It tries again.",
        ),
        Event(
            "a line cannot be opened yet",
            "debug",
            "id error",
            "The way for pushes to a connection could not be made. It is tried again.",
        ),
        Event(
            "the resumable handler of connection %s on %s has received %d times, has sent, and "
            "never committed: call conn.commit() where a message is dealt with, or the "
            "connection cannot be kept",
            "warning",
            "",
            "Said once for each listener by each process.",
            "Call `conn.commit()`, or use an iterator with `commit=True`.",
        ),
        Event(
            "receive buffer of fd %d raised to %d bytes, and further as messages need it: a handler"
            " that has its input redelivered receives so much between two commits",
            "info",
            "",
            "What is redelivered stays in the kernel until it is committed.",
            "Commit more often, or give `--rcvbuf`.",
        ),
        Event(
            "replies of connection %s on %s are at least once, not exactly once: %s",
            "warning",
            "",
            "The handler uses `reply` where the kernel's counts do not tell what has gone out.",
            "The line says what stands in the way.",
        ),
    ),
    "Handlers and applications": (
        Event(
            "handler failed",
            "error",
            f"{_CONNECTION} traceback",
            "An exception has left the handler. Its connection is closed.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "handler ended",
            "info debug",
            f"{_CONNECTION} error at",
            "At info by what the peer did wrong (too long a message, a malformed one, no TLS) or by"
            " a time limit that the handler let pass, ten lines in ten seconds for each reason; at"
            " debug by the connection's own end. `--access-log` has each connection.",
            "Nothing, if peers may do that; else catch the error at `at`, and tell the peer.",
            bounded=True,
        ),
        Event(
            "handler goes on without its connection",
            "error",
            f"handler {_CONNECTION} operation after at remedy",
            "The handler has swallowed the end of its call, and receives or sends again.",
            "`except Exception` in place of a bare `except`, at `at`.",
            bounded=True,
        ),
        Event(
            "handlers did not end in time",
            "warning",
            "open",
            "The server went on without so many handlers at the deadline.",
            "Raise `--graceful-timeout`, or make handlers heed `conn.leaving`.",
        ),
        Event(
            "process forked by a handler came back: ended",
            "warning",
            "handler pid remedy",
            "A handler has forked, and its child has returned to the server's code.",
            "End it in the handler, with `os._exit()`.",
            bounded=True,
        ),
        Event(
            "process forked by a handler failed",
            "error",
            "handler pid traceback",
            "A handler has forked, and its child has raised.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "on_push failed",
            "error",
            f"{_CONNECTION} traceback",
            "The service's `on_push` has raised. The connection goes on.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "on_leaving failed",
            "error",
            f"{_CONNECTION} traceback",
            "The service's `on_leaving` has raised. The connection goes on.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "on_leave failed",
            "error",
            f"{_CONNECTION} traceback",
            "The service's `on_leave` has raised. All else goes on.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "on_error failed",
            "error",
            f"{_CONNECTION} traceback",
            "The service's `on_error` has raised; what it was called for stands before it.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "on_ready failed",
            "error",
            "traceback",
            "The service's `on_ready` has raised. The worker serves all the same.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "no metrics",
            "warning",
            "error",
            "The process that calls `otel.observe` cannot ask the server, as `error` says. It tells"
            " so once a minute. Until it can there are no numbers.",
            "Start the server, or give `otel.observe` its control socket.",
        ),
        Event(
            "lifespan failed",
            "error",
            "traceback",
            "An ASGI application's lifespan has raised.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "lifespan failed at its end",
            "error",
            "traceback",
            "What a lifespan does after its `yield` has raised.",
            "Mend the code at the end of `traceback`.",
        ),
        Event(
            "the application has no lifespan",
            "debug",
            "error",
            "It raised when it was asked, as applications without one do.",
        ),
        Event(
            "the application did not end in order",
            "error",
            "error_text",
            "An ASGI application said at its end that it failed, or did not answer.",
            "Look at its shutdown handlers.",
        ),
        Event(
            "application failed",
            "error",
            f"{_CONNECTION} request traceback error",
            "An ASGI application has raised, or has returned without a whole response.",
            "Mend the code at the end of `traceback`, or what `error` says.",
            bounded=True,
        ),
        Event(
            "application raised when its client had gone",
            "info",
            f"{_CONNECTION} request error at",
            "As frameworks say that they were told so.",
            bounded=True,
        ),
        Event(
            "closed after a crash",
            "info",
            f"{_CONNECTION} why",
            "A request was under way when its worker died, and may not be done again.",
            "See why the worker died in `worker exited`.",
            bounded=True,
        ),
        Event(
            "a WebSocket cannot be kept: its request's head is too large",
            "warning",
            "id size",
            "The head is part of the state that is kept, which may have 64 KiB.",
            "Fewer or shorter cookies and headers.",
            bounded=True,
        ),
        Event(
            "channels of a group are full",
            "warning",
            "group full members",
            "Django Channels: so many members of a group do not take their messages.",
            "See why their consumers are slow; a larger `capacity` only puts it off.",
            bounded=True,
        ),
        Event(
            "pushed to a layer, and no message",
            "warning",
            "error",
            "Somebody pushes what is no message to a name of a channel layer.",
            "Push to connections, not to names of the layer.",
            bounded=True,
        ),
    ),
    "Input of peers": (
        Event(
            "TLS on a plain listener",
            "info",
            f"{_CONNECTION} listener",
            "A client began TLS where there is none, and nothing more came.",
            "Give the listener `tls=`, or tell the client's owner.",
            bounded=True,
        ),
        Event(
            "TLS handshake failed",
            "info",
            "reason peer listener why",
            "A client and an edge did not agree: `reason` is `no_tls`, `certificate`, `handshake`,"
            " `cut`, `late` or `no_room`.",
            "`no_room`: more `--edges`. The others are the client's.",
            bounded=True,
        ),
        Event(
            "bad request",
            "info",
            f"{_CONNECTION} status error",
            "What a client sent is no request, or is over a limit.",
            bounded=True,
        ),
        Event(
            "websocket",
            "info",
            f"{_CONNECTION} why",
            "A WebSocket was refused or ended by what its peer sent, or did not send.",
            bounded=True,
        ),
    ),
    "Room": (
        Event(
            "server is full: others wait in the accept queue",
            "warning",
            "most",
            "As many connections are open as `--max-connections` allows.",
            "Raise it if there is memory; else more machines. `socketkeep connections` shows whose"
            " they are.",
        ),
        Event("server has room again", "info", "full_for", "It was full for so many seconds."),
        Event(
            "accept queue overflows: the kernel turns clients away, who try again",
            "warning",
            "address backlog dropped",
            "Connections come faster than workers accept them.",
            "`--backlog` with `net.core.somaxconn` for bursts, more workers for what lasts.",
        ),
        Event(
            "accept queue has room again",
            "info",
            "address dropped",
            "It has overflown no more for some seconds.",
        ),
        Event(
            "out of file descriptors",
            "warning",
            "process error wanted",
            "Connections wait in the kernel's queue, or are served without being kept.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot fork",
            "warning",
            "process error",
            "The system has no room for a process. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot start a thread",
            "warning",
            "process error",
            "The system has no room for a thread. Connections wait for one that is free.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot watch a process",
            "warning",
            "process wanted error",
            "The kernel gives no pidfd. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot accept",
            "error",
            "error",
            "The kernel refuses to accept from a listener for a reason that waiting does not mend.",
            "Look at `error`: a filter of system calls, or rules of the kernel's.",
        ),
        Event(
            "the accept rate does not hold: out of descriptors",
            "warning",
            "process",
            "An edge has no descriptor for the table by which rates are counted.",
            _OUT,
        ),
    ),
    "Names and clusters": (
        Event(
            "name taken over",
            "info",
            "name id before by node",
            "A second connection was given a name: `before` had it here, or `by` and `node` say"
            " which node has it now.",
            "Nothing, if clients reconnect before their old connection is noticed to be dead; else"
            " two devices have one name.",
        ),
        Event(
            "cluster joined",
            "info",
            "cluster broker nodes",
            "The server is a node of the cluster.",
        ),
        Event(
            "cluster not joined",
            "error",
            "error",
            "No broker can be reached, or it refuses. It is tried again.",
            "Look at `error` and at the broker's log.",
        ),
        Event(
            "cluster left",
            "error",
            "error",
            "The connection to the broker, or the node's lease, has ended. It joins again.",
            "Look at the broker, and at the network to it.",
        ),
        Event("broker", "debug", "error", "What the broker's client says of its connection."),
        Event(
            "the cluster's process ended",
            "error",
            "exit again_in",
            "It is started again. Pushes to other nodes fail meanwhile.",
            "Look at the lines before it.",
        ),
        Event(
            "cluster process killed: what it said cannot be",
            "error",
            "why",
            "It sent the keeper what makes no sense.",
            _REPORT,
            bounded=True,
        ),
        Event(
            "cannot start the cluster's process",
            "warning",
            "error",
            "The system has no room for it. It is tried again.",
            _OUT,
            bounded=True,
        ),
    ),
    "TLS and edges": (
        Event("edge ready", "info", "pid", "The edge accepts TLS."),
        Event(
            "edge leaves",
            "info",
            "pid connections",
            "An edge of before an upgrade serves what it has, until `--edge-drain`.",
        ),
        Event(
            "edge adopted",
            "info",
            "pid",
            "An edge of a keeper that has died serves what it has, until `--edge-drain`.",
        ),
        Event("edge has left", "info", "pid", "Its last connection has ended."),
        Event(
            "edge ended, and its connections with it",
            "error",
            "pid exit connections error",
            "An edge has died. It is started again; its clients have to connect again.",
            "`error` says why it could not begin; else report it, with `exit`.",
        ),
        Event(
            "edge killed: what it said cannot be",
            "error",
            "why pid",
            "It sent the keeper what makes no sense.",
            _REPORT,
            bounded=True,
        ),
        Event(
            "an edge does not answer",
            "warning",
            "pid",
            "It hangs, or was stopped, and a connection whose worker died waited for it.",
            "Look at the process: stopped (`T` in `ps`), or without a processor.",
            bounded=True,
        ),
        Event(
            "no edge is there to begin TLS",
            "warning",
            "peer",
            "A handler has called `start_tls`, and no edge is ready.",
            "See why none is, in the lines before.",
            bounded=True,
        ),
        Event(
            "cannot begin TLS",
            "warning",
            "peer error",
            "The keeper has no descriptor to pass the connection to an edge.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot start an edge",
            "warning",
            "error",
            "The system has no room for it. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot pass a connection on",
            "warning",
            "error",
            "An edge cannot give a connection to a worker. It is closed.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot send to the keeper",
            "warning",
            "error",
            "An edge tries again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "failed in a callback",
            "warning",
            "error",
            "What Python's ssl cannot raise, of a name that a client asked for.",
            bounded=True,
        ),
        Event(
            "the keeper has gone: no more is accepted",
            "warning",
            "connections",
            "The keeper has died; the edge serves what it has.",
            "Start the server again. Find out what killed the keeper.",
        ),
        Event("certificates renewed", "info", "listener", "New clients get the new ones."),
        Event(
            "certificates not renewed: those before stay",
            "error",
            "listener error",
            "The new files do not do.",
            "Mend what `error` says; they are tried again at the next change or reload.",
        ),
        Event(
            "certificate expires soon",
            "warning",
            "path days",
            "Said once a day, from 14 days before.",
            "Renew it: the server takes the new file by itself.",
        ),
        Event(
            "certificate is not valid",
            "error",
            "path",
            "It has expired, and clients refuse it.",
            "Renew it: the server takes the new file by itself.",
        ),
    ),
    "Guard and store": (
        Event(
            "keeper started again",
            "warning",
            "cause stored",
            "The keeper had died, and its guard has started this one; `stored` is what it held.",
            "`cause` names the signal; look for it in the system's log.",
        ),
        Event(
            "settings not read: those before stay",
            "error",
            "error",
            "The keeper was started again, and the settings file has a mistake by now. It goes by"
            " the settings of the keeper before it, whose connections it keeps.",
            "`error` names the file and the place. Mend it, then `socketkeep reload`.",
        ),
        Event(
            "the guard has ended: another is started, and holds all anew",
            "error",
            "",
            "Nothing is lost, but what dies in this moment is.",
            "Look in the system's log for what killed it.",
        ),
        Event(
            "the guard has ended: what the keeper holds nobody else holds from here on",
            "error",
            "",
            "The keeper cannot start another guard: it has given up its rights, or ends.",
            "Restart the server when that is convenient.",
        ),
        Event(
            "no guard can be started",
            "error",
            "error",
            "It is tried again.",
            "Mend what `error` says.",
        ),
        Event("guarded again", "info", "guard stored", "The new guard holds so many descriptors."),
        Event("guarding", "info", "path most", "`socketkeep guard --listen` waits for servers."),
        Event(
            "server connected", "info", "name held", "A server has got what was held for its name."
        ),
        Event("server gone", "info", "name held", "So much is held for the next of its name."),
        Event(
            "a server was refused",
            "warning",
            "why",
            "A server may not have what is stored.",
            "Do what `why` says.",
            bounded=True,
        ),
        Event(
            "the guard is full",
            "warning",
            "most",
            "A server wants to store more than the guard may hold.",
            "Raise `--store` of `socketkeep guard`.",
            bounded=True,
        ),
        Event(
            "the guard's store is full",
            "warning",
            "most",
            "The connections that found no room end with the keeper, if it dies.",
            "Raise the limit of descriptors of the guard.",
            bounded=True,
        ),
        Event(
            "what is to be stored is not taken",
            "warning",
            "waiting",
            "The guard, or the service manager, has stored nothing for a second. Connections move"
            " on without it, and those of which `waiting` is yet to be stored end with the keeper,"
            " if it dies.",
            "Look whether it is stopped, or has no processor time.",
            bounded=True,
        ),
        Event(
            "the service manager's store is full",
            "warning",
            "most",
            "The connections that found no room end with the keeper, if it dies.",
            "Raise `FileDescriptorStoreMax=` of the unit.",
            bounded=True,
        ),
        Event(
            "cannot store a connection",
            "warning",
            f"{_CONNECTION} error",
            "It ends with the keeper, if that dies.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot store a descriptor",
            "warning",
            "error",
            "It is lost with the keeper, if that dies.",
            _OUT,
            bounded=True,
        ),
        Event(
            "cannot notify the service manager",
            "warning",
            "address error",
            "NOTIFY_SOCKET leads nowhere, or the manager does not read.",
            "Look at `NotifyAccess=` of the unit, and at what sets NOTIFY_SOCKET.",
            bounded=True,
        ),
    ),
    "Control and admin": (
        Event(
            "control socket cannot accept",
            "warning",
            "error",
            "Commands wait.",
            _OUT,
        ),
        Event(
            "the control socket's file was gone and is made anew",
            "warning",
            "",
            "Somebody had removed it.",
            "Find who cleans that directory.",
        ),
        Event(
            "the control socket's file is gone and cannot be made anew",
            "warning",
            "error",
            "Commands cannot reach the server; signals do.",
            "Mend what `error` says; it is tried again.",
        ),
        Event(
            "agent checks are not answered",
            "warning",
            "error",
            "HAProxy does not hear how much the server has to do.",
            _OUT,
            bounded=True,
        ),
        Event(
            "admin cannot be shown",
            "error",
            "error",
            "The process that serves the live page cannot begin.",
            "Mend what `error` says.",
        ),
        Event(
            "admin process ended",
            "error",
            "exit again_in",
            "It is started again. Connections are not touched by it.",
            "Look at the lines before it.",
        ),
        Event(
            "cannot start the admin process",
            "warning",
            "error",
            "The system has no room for it. It is tried again.",
            _OUT,
            bounded=True,
        ),
        Event(
            "the admin process asks by what is no socket",
            "warning",
            "error",
            "It sent the keeper a descriptor that it does not take.",
            _REPORT,
            bounded=True,
        ),
        Event(
            "internal error, please report it",
            "error",
            "traceback error_text",
            "A mistake of the server's. What it was about was given up, and all else goes on.",
            _REPORT,
            bounded=True,
        ),
        Event(
            "descriptor left alone for a second: its callback keeps failing",
            "error",
            "fd",
            "A mistake of the server's, told by the line before.",
            _REPORT,
            bounded=True,
        ),
    ),
    "The log itself": (
        Event("log reopened", "info", "", "SIGUSR1 was sent."),
        Event(
            "log lines dropped",
            "warning",
            "lines pid why",
            "A process had no room for so many lines, and waits for nobody.",
            "See why nobody reads the pipe or the terminal that the log goes to.",
        ),
        Event(
            "a line could not be put into words",
            "warning",
            "error",
            "A field of a line raised when it was to be written.",
            _REPORT,
        ),
        Event(
            "request log has no room: lines are dropped",
            "warning",
            "",
            "Nobody reads what `--request-log` goes to.",
            "See why nobody reads it.",
            bounded=True,
        ),
        Event(
            "request log cannot be written",
            "error",
            "error",
            "The file of `--request-log-file` cannot be written.",
            "Mend what `error` says.",
            bounded=True,
        ),
        Event(
            "the directory %s is locked (flock) by %s for more than %g s: the socket is made"
            " without waiting for it longer",
            "warning",
            "",
            "Another process holds a lock on the directory of a Unix listener.",
            "End that process, or give the listener a directory of its own.",
        ),
    ),
}


def all_events() -> dict[str, Event]:
    """Return the events by their names."""
    return {event.name: event for section in EVENTS.values() for event in section}


def events_markdown() -> str:
    """Return the page: a table for each section."""
    return "\n".join(
        f"## {title}\n\n| event | level | fields | meaning | what to do |\n|---|---|---|---|---|\n"
        + "".join(map(_row, events))
        for title, events in EVENTS.items()
    )


def _row(event: Event) -> str:
    fields = ", ".join(f"`{field}`" for field in event.fields.split())
    often = " At most once in ten seconds for each kind from each process." if event.bounded else ""
    level = event.levels.replace(" ", ", ")
    remedy = event.remedy or "Nothing."
    return f"| `{event.name}` | {level} | {fields} | {event.meaning}{often} | {remedy} |\n"
