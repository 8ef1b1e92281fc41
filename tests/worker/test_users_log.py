"""The lines of the user's code among the server's own."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import logging.config
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from socketkeep import Connection, log_fields
from socketkeep._base import _log, _log_users
from tests.harness.seam import begin_handler, leased

CONNECTION = {"id": "1-2-3", "peer": "127.0.0.1:9"}


class Log:
    """A server's log in a file, and this process's logging as a template has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bound: dict[str, str] = {}

    def configure(self, form: str = "json", level: str = "info") -> None:
        """Begin anew, in the test itself: pytest puts its own in place just before it."""
        logging.getLogger().handlers = []
        _log.configure(level, form, str(self.path))
        _log_users.write_users_lines(level, form, lambda: self.bound)

    def text(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def said(self) -> list[dict[str, Any]]:
        """Return the lines without their times."""
        return [{k: v for k, v in line.items() if k != "time"} for line in self.lines()]


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A server's process, before the user's code is loaded; all is put back at the end."""
    server, root = logging.getLogger("socketkeep"), logging.getLogger()
    before = [(each, each.handlers[:], each.level, each.propagate) for each in (server, root)]
    last = logging.lastResort
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield Log(tmp_path / "server.log")
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    logging.lastResort = last


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the user's, as new."""
    logger = logging.getLogger("chat.rooms")
    yield logger
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


def test_a_line_has_its_connection_and_what_is_extra(users: Log, logger: logging.Logger) -> None:
    users.configure()
    users.bound = {**CONNECTION, "name": "ada"}
    logger.info("joined %s", "lobby", extra={"members": 3, "tags": ["a"]})
    assert users.said() == [
        {
            "level": "info",
            "event": "joined lobby",
            "logger": "chat.rooms",
            **CONNECTION,
            "name": "ada",
            "members": 3,
            "tags": ["a"],
        }
    ]


def test_the_form_for_people(users: Log, logger: logging.Logger) -> None:
    users.configure("human")
    users.bound = CONNECTION
    logger.warning("a\nb \x1b[2J", extra={"said": "c\nd"})
    (line,) = users.text().splitlines()
    assert line.split(maxsplit=1)[1] == (
        r"warning a\nb \x1b[2J logger=chat.rooms id=1-2-3 peer=127.0.0.1:9 said="
        r'"c\nd"'
    )


def test_extras_hide_no_field_and_break_no_line(users: Log, logger: logging.Logger) -> None:
    users.configure()

    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    users.bound = CONNECTION
    circle: list[object] = []
    circle.append(circle)
    extra = {"id": 7, "level": "debug", "n": float("nan"), "odd": {Odd(): 1}, "circle": circle}
    logger.info("x", extra=extra)
    (line,) = users.said()
    assert line["id"] == "1-2-3"
    assert line["level"] == "info"
    assert (line["extra_id"], line["extra_level"], line["n"]) == (7, "debug", "nan")
    assert line["odd"] == "<a dict, whose repr() raises ValueError>"
    assert line["circle"] == "[[...]]"


def test_an_exception_and_a_stack_are_fields(users: Log, logger: logging.Logger) -> None:
    users.configure()
    try:
        raise KeyError("room")
    except KeyError:
        logger.exception("failed", stack_info=True)
    logger.error("nothing raised", exc_info=True)  # noqa: LOG014
    failed, other = users.said()
    assert failed["traceback"].endswith("KeyError: 'room'")
    assert "test_an_exception_and_a_stack" in failed["stack"]
    assert "traceback" not in other


def test_arguments_that_do_not_fit_are_told_with_the_place(
    users: Log, logger: logging.Logger
) -> None:
    users.configure()
    logger.info("%d rooms", "many")
    (line,) = users.said()
    assert line["event"] == "%d rooms"
    assert line["error"].startswith("TypeError: ")
    assert line["at"].startswith(f"{__file__}:")


def test_the_level_is_the_servers_until_the_code_sets_one(
    users: Log, logger: logging.Logger
) -> None:
    users.configure()
    logger.debug("not this")
    logger.setLevel(logging.DEBUG)
    logger.debug("but this")
    assert [line["event"] for line in users.lines()] == ["but this"]


def test_other_handlers_get_the_record_as_it_was(users: Log, logger: logging.Logger) -> None:
    users.configure()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.msg, record.args, hasattr(record, "fields")))

    seen: list[object] = []
    logging.getLogger().addHandler(Kept())
    logger.warning("%s!", "a")
    assert seen == [("%s!", ("a",), False)]
    assert [line["event"] for line in users.lines()] == ["a!"]


# Others that set up logging.


def test_basic_config_adds_no_second_handler(users: Log, logger: logging.Logger) -> None:
    users.configure()
    logging.basicConfig(level=logging.DEBUG, format="mine: %(message)s")
    logger.info("once")
    assert [line["event"] for line in users.lines()] == ["once"]


def test_a_forced_basic_config_has_its_way(users: Log, logger: logging.Logger) -> None:
    users.configure()
    users.bound = CONNECTION
    logging.basicConfig(level=logging.INFO, format="mine: %(message)s", force=True)
    logger.info("once")
    assert users.said() == [
        {"level": "info", "event": "mine: once", "stream": "stderr", **CONNECTION}
    ]
    _log.info("the server's own")
    assert users.lines()[-1]["event"] == "the server's own"


@pytest.mark.parametrize("of_root", [False, True], ids=["of a logger", "of the root"])
def test_dict_config_brings_no_second_line(
    users: Log, logger: logging.Logger, tmp_path: Path, of_root: bool
) -> None:
    """As uvicorn and others have it: a handler to a standard stream, at a logger or at the root."""
    users.configure()
    own = {"handlers": ["console"], "level": "INFO"}
    logging.config.dictConfig(
        {
            "version": 1,
            "formatters": {"plain": {"format": "theirs: %(message)s"}},
            "handlers": {
                "console": {
                    "class": "logging.StreamHandler",
                    "formatter": "plain",
                    "stream": "ext://sys.stdout",
                }
            },
            **({"root": own} if of_root else {"loggers": {"chat": own}}),
        }
    )
    logging.getLogger("chat").disabled = logger.disabled = False
    logger.info("once")
    assert [(line["event"], line.get("stream")) for line in users.lines()] == [
        ("theirs: once", "stdout")
    ]
    logging.getLogger(f"{tmp_path}").warning("and this")
    assert [line["event"] for line in users.lines()[1:]] == [
        "theirs: and this" if of_root else "and this"
    ]
    _log.info("the server's own")  # though all loggers that there were are disabled
    assert users.lines()[-1]["event"] == "the server's own"
    logging.getLogger("chat").handlers = []


def test_a_library_that_does_not_propagate_writes_by_itself(
    users: Log, logger: logging.Logger
) -> None:
    users.configure()
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    logger.info("once")
    assert [(line["event"], line["stream"]) for line in users.lines()] == [("once", "stderr")]


def test_a_handler_that_its_level_keeps_silent_does_not_count(
    users: Log, logger: logging.Logger
) -> None:
    users.configure()
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logger.addHandler(handler)
    logger.info("once")
    assert [line["logger"] for line in users.lines()] == ["chat.rooms"]


def test_a_handler_to_a_file_is_one_more(
    users: Log, logger: logging.Logger, tmp_path: Path
) -> None:
    users.configure()
    handler = logging.FileHandler(tmp_path / "own.log")
    logger.addHandler(handler)
    logger.info("twice")
    handler.close()
    assert (tmp_path / "own.log").read_text() == "twice\n"
    assert [line["event"] for line in users.lines()] == ["twice"]


def test_a_console_as_rich_has_it_counts(users: Log, logger: logging.Logger) -> None:
    users.configure()

    class Console:
        file = sys.stdout

    class RichHandler(logging.Handler):
        console = Console()

        def emit(self, record: logging.LogRecord) -> None:
            print("rich:", record.getMessage())

    logger.addHandler(RichHandler())
    logger.info("once")
    assert [line["event"] for line in users.lines()] == ["rich: once"]


def test_structlog_hands_over_its_fields(users: Log) -> None:
    """As the documentation sets it up."""
    users.configure()
    users.bound = CONNECTION
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    try:
        structlog.get_logger("chat.structured").warning("joined", room="lobby", members=3)
    finally:
        structlog.reset_defaults()
    assert users.said() == [
        {
            "level": "warning",
            "event": "joined",
            "logger": "chat.structured",
            **CONNECTION,
            "room": "lobby",
            "members": 3,
        }
    ]


# What is printed.


def test_each_printed_line_is_a_line_whatever_the_level(users: Log) -> None:
    users.configure(level="error")
    users.bound = CONNECTION
    print("a\nb")
    print("c", file=sys.stderr)
    print()
    assert users.said() == [
        {"level": "info", "event": "a", "stream": "stdout", **CONNECTION},
        {"level": "info", "event": "b", "stream": "stdout", **CONNECTION},
        {"level": "info", "event": "c", "stream": "stderr", **CONNECTION},
    ]


def test_a_line_waits_for_its_end_or_a_flush(users: Log) -> None:
    users.configure()
    print("a", end="")
    assert users.lines() == []
    print("b")
    print("c", end="", flush=True)
    print("d", end="")
    print("x" * 70_000, end="")
    assert [line["event"][:3] for line in users.lines()] == ["ab", "c", "dxx"]


def test_threads_do_not_write_into_each_others_lines(users: Log) -> None:
    users.configure()
    print("of one ", end="")
    other = threading.Thread(target=print, args=("of another",))
    other.start()
    other.join()
    print("thread")
    assert [line["event"] for line in users.lines()] == ["of another", "of one thread"]


def test_a_begun_line_is_written_by_who_began_it(
    users: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked process has a copy of what its parent has begun."""
    users.configure()
    stream = _log_users.printed(1, dict)
    stream.write("parent's ")
    pid = os.getpid()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: pid + 1)
        stream.flush()
        stream.write("child's\n")
    assert [line["event"] for line in users.lines()] == ["child's"]


def test_bytes_and_the_descriptor_are_there(users: Log) -> None:
    users.configure()
    sys.stdout.buffer.write(b"by\xfftes\r\n")
    assert [line["event"] for line in users.lines()] == [r"by\xfftes"]
    assert (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    assert not sys.stdout.isatty()
    assert sys.stdout.name == "<stdout>"


def test_what_is_printed_at_a_terminal_stays_there(
    users: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.__stdout__
    monkeypatch.setattr(sys, "stdout", before)
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    users.configure("human")
    assert sys.stdout is before
    assert sys.stderr is not sys.__stderr__
    users.configure("json")
    assert sys.stdout is not before


# The connection.


def test_the_fields_are_of_the_connection_whose_handler_runs() -> None:
    assert contextvars.Context().run(log_fields) == {}
    outside = log_fields()  # tests before may have been handlers
    ours, theirs = socket.socketpair()
    with Connection(ours, **leased(id="1-2-3")) as conn, theirs:
        context = contextvars.copy_context()
        context.run(begin_handler, conn)
        fields = {"id": "1-2-3", "peer": conn.peer}
        assert context.run(log_fields) == fields
        conn.name = "ada"
        assert context.run(log_fields) == {**fields, "name": "ada"}
        context.run(lambda: begin_handler(conn, aside=True))  # in on_push, say
        assert context.run(log_fields)["name"] == "ada"

        async def in_tasks() -> list[dict[str, str]]:
            begin_handler(conn)
            task = asyncio.create_task(asyncio.to_thread(log_fields))
            return [log_fields(), await task]

        assert asyncio.run(in_tasks()) == [{**fields, "name": "ada"}] * 2
        assert log_fields() == outside


def test_json_that_strict_readers_take(users: Log) -> None:
    """A byte that was no UTF-8 is no half of a pair in it; a character beyond 16 bits is one."""
    users.configure()
    fields = {"peer": "unix:\udcff", "face": "\U0001f600", "count": 3, "no": None}
    logging.getLogger("socketkeep").info("event", extra={"fields": fields})
    line = msgspec.json.decode(users.text())
    assert line["peer"] == "unix:\\udcff"
    assert (line["face"], line["count"], line["no"]) == ("\U0001f600", 3, None)
