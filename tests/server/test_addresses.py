"""Limits by address, as the peers of a server meet them: who is served, and who is not."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from socketkeep.proxy import InetAddress, ProxyHeader
from tests.harness import Server, read_reply, write_handler
from tests.server.support import complaint, run, seats

MOST: Final = 3
ONE: Final = "127.0.0.2"
OTHER: Final = "127.0.0.3"


def come(server: Server, source: str = ONE, address: str = "") -> socket.socket:
    """Connect from an address of this machine."""
    peer = socket.socket()
    peer.settimeout(30)
    peer.bind((source, 0))
    # It may have been reset by the time that this looks; `outcome` tells of that.
    with suppress(ConnectionResetError):
        host, _, port = (address or server.address).rpartition(":")
        peer.connect((host, int(port)))
    return peer


def outcome(peer: socket.socket, header: bytes = b"") -> str:
    """Ask for a reply: "served", "reset" or "closed"."""
    try:
        peer.sendall(header + b"1\n")
        return "served" if read_reply(peer) else "closed"
    except EOFError:
        return "closed"
    except OSError as error:
        # ENOTCONN: of a socket whose reset its connect(2) has reported.
        if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
            return "reset"
        raise


def fill(server: Server, stack: ExitStack, source: str = ONE, most: int = MOST) -> None:
    """Have as many served as one address may have."""
    for _ in range(most):
        assert outcome(stack.enter_context(come(server, source))) == "served"


def is_served(server: Server, stack: ExitStack, source: str = ONE) -> bool:
    """Whether one more is served; the stack has it then."""
    peer = come(server, source)
    if outcome(peer) == "served":
        stack.enter_context(peer)
        return True
    peer.close()
    return False


def over_limit(server: Server) -> Any:
    return server.status()["totals"]["over_limit"]


def serving(directory: Path, model: str, *options: str, **more: Any) -> Server:
    """Return a server, yet to be entered, with two workers at least and seats for all."""
    target = write_handler(directory, "v0", is_async=model == "async")
    workers = seats(model, 12) if model == "prefork" else (*seats(model, 12), "-w", "2")
    return Server(directory, target, *workers, *options, **more)


def test_an_address_has_so_many(tmp_path: Path, model: str) -> None:
    """Over all workers; who is over it is reset and counted; what ends makes room."""
    limit = ("--max-per-address", str(MOST))
    with serving(tmp_path, model, *limit) as server, ExitStack() as stack:
        fill(server, stack)
        mine = ExitStack()
        for _ in range(4):
            with come(server) as peer:
                assert outcome(peer) == "reset"
        fill(server, mine, OTHER)
        assert over_limit(server)["max_per_address"] == 4
        event = server.wait_event("connection refused", reason="max_per_address")
        assert event["peer"].startswith(f"{ONE}:")
        assert event["why"] == f"there are {MOST} connections from there"
        stack.close()
        server.wait_until(lambda: is_served(server, stack), "room again")
        mine.close()


@pytest.mark.parametrize("model", ["fork", "async"])
def test_the_limit_through_reload_and_upgrade(tmp_path: Path, model: str) -> None:
    """It counts what moved, and goes on counting what ends and comes."""
    limit = ("--max-per-address", str(MOST))
    with serving(tmp_path, model, *limit) as server, ExitStack() as stack:
        fill(server, stack)
        for command in ("reload", "upgrade"):
            assert server.cli(command).exit_code == 0
            with come(server) as peer:
                assert outcome(peer) == "reset", command
            stack.pop_all().close()
            for _ in range(MOST):
                server.wait_until(lambda: is_served(server, stack), f"room after {command}")
            with come(server) as peer:
                assert outcome(peer) == "reset", command


@pytest.mark.parametrize("model", ["fork", "async"])
def test_a_killed_worker_takes_its_counts_along(tmp_path: Path, model: str) -> None:
    """What died with it counts no more, and what goes on in another does."""
    limit = ("--max-per-address", str(MOST), "--keep", "crash", "--keep-after", "0")
    with serving(tmp_path, model, *limit) as server, ExitStack() as stack:
        fill(server, stack)
        server.wait_until(
            lambda: server.status()["connections"]["kept"] == MOST, "all held by the keeper"
        )
        server.wait_clean()
        before = {each["pid"] for each in server.workers()}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        server.wait_until(
            lambda: (
                sum(
                    each["state"] == "ready" and each["pid"] not in before
                    for each in server.workers()
                )
                == len(before)
            ),
            "other workers",
        )
        with come(server) as peer:
            assert outcome(peer) == "reset"
        stack.pop_all().close()
        for _ in range(MOST):
            server.wait_until(lambda: is_served(server, stack), "room again")


@pytest.mark.parametrize("model", ["prefork"])
def test_parked_connections_count(tmp_path: Path, model: str) -> None:
    """Those that no worker has are connections of their address all the same."""
    limit = ("--max-per-address", str(MOST), "--park-after", "0")
    with serving(tmp_path, model, *limit) as server, ExitStack() as stack:
        fill(server, stack)
        server.wait_until(lambda: server.status()["connections"]["parked"] == MOST, "all parked")
        with come(server) as peer:
            assert outcome(peer) == "reset"
        stack.pop_all().close()
        for _ in range(MOST):
            server.wait_until(lambda: is_served(server, stack), "room again")


@pytest.mark.parametrize("model", ["prefork", "async"])
@pytest.mark.parametrize("late", [False, True], ids=["header at once", "header late"])
def test_behind_a_proxy_its_clients_count(tmp_path: Path, model: str, late: bool) -> None:
    """Each by the address in its header, whenever that comes, and not by the proxy's."""
    bind = ["127.0.0.1:0,proxy=on"]
    limit = ("--max-per-address", "1")

    def ask(stack: ExitStack, client: str) -> str:
        front = "2001:db8::443" if ":" in client else "203.0.113.1"
        header = ProxyHeader(
            source=InetAddress(client, 40123), destination=InetAddress(front, 443)
        ).encode()
        peer = stack.enter_context(come(server, "127.0.0.1"))
        if late:
            peer.sendall(header[:5])
            server.wait_until(
                lambda: server.status()["connections"]["awaiting_header"] == 1, "it is awaited"
            )
            header = header[5:]
        return outcome(peer, header)

    with serving(tmp_path, model, *limit, bind=bind) as server, ExitStack() as stack:
        clients = ("198.51.100.7", "198.51.100.8", "2001:db8:0:1::1", "2001:db8:0:2::1")
        assert [ask(stack, each) for each in clients] == ["served"] * 4
        again = ("198.51.100.7", "2001:db8:0:1:ffff::9")  # the second is of the same /64
        assert [ask(stack, each) for each in again] == ["reset"] * 2


def test_a_close_in_place_of_a_reset(tmp_path: Path) -> None:
    """With --over-limit close the peer finds the end of the stream."""
    limit = ("--max-per-address", "1", "--over-limit", "close")
    with serving(tmp_path, "async", *limit) as server, ExitStack() as stack:
        fill(server, stack, most=1)
        with come(server) as peer:
            assert peer.recv(1) == b""


def test_a_listener_has_a_limit_of_its_own(tmp_path: Path) -> None:
    """Or none, as its options say."""
    bind = ["127.0.0.1:0,max-per-address=1", "127.0.0.4:0,max-per-address=0", "127.0.0.5:0"]
    limit = ("--max-per-address", str(MOST))
    with serving(tmp_path, "async", *limit, bind=bind) as server, ExitStack() as stack:
        strict, free, usual = server.addresses

        def ask(address: str) -> str:
            return outcome(stack.enter_context(come(server, ONE, address)))

        assert [ask(free) for _ in range(5)] == ["served"] * 5
        assert [ask(strict) for _ in range(2)] == ["served", "reset"]
        assert [ask(usual) for _ in range(3)] == ["served", "served", "reset"]


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_the_rate_of_all(tmp_path: Path, model: str) -> None:
    """What comes faster waits, is not refused, and is served when its time has come."""
    bind = ["127.0.0.1:0", "127.0.0.2:0,accept-rate=1/h:1", "127.0.0.3:0,accept-rate=off"]
    rate = ("--accept-rate", "1:4")
    with serving(tmp_path, model, *rate, bind=bind) as server, ExitStack() as stack:
        peers = [stack.enter_context(come(server)) for _ in range(24)]
        assert outcome(peers[0]) == "served"
        for _ in range(4):
            with come(server, ONE, server.addresses[2]) as free:
                assert outcome(free) == "served"
        slow = [stack.enter_context(come(server, ONE, server.addresses[1])) for _ in range(20)]
        assert outcome(slow[0]) == "served"
        assert server.status()["listeners"][1]["queued"] >= 8, "each worker may take one"
        server.wait_until(
            lambda: 0 < server.status()["listeners"][0]["queued"] < 22, "some accepted, some not"
        )
        assert {outcome(peer) for peer in peers[1:8]} == {"served"}


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_the_rate_of_an_address(tmp_path: Path, model: str) -> None:
    """A burst is served, in whichever workers, what is beyond it is reset, others are served."""
    rate = ("--accept-rate-per-address", "1/h:5")
    with serving(tmp_path, model, *rate) as server, ExitStack() as stack:
        outcomes = [outcome(stack.enter_context(come(server))) for _ in range(8)]
        assert outcomes == ["served"] * 5 + ["reset"] * 3
        assert outcome(stack.enter_context(come(server, OTHER))) == "served"
        assert over_limit(server)["rate_per_address"] == 3
        event = server.wait_event("connection refused", reason="rate_per_address")
        assert event["why"] == "too many have just come from there"


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_lists_of_networks(tmp_path: Path, model: str) -> None:
    """Who is denied is served nowhere, and others only where they are allowed."""
    bind = ["127.0.0.1:0", "127.0.0.4:0,allow=127.0.0.3", "127.0.0.5:0,deny=127.0.0.9"]
    lists = ("--allow", "127.0.0.0/30,10.0.0.0/8", "--deny", "127.0.0.2/32")
    with serving(tmp_path, model, *lists, bind=bind) as server, ExitStack() as stack:

        def served(address: str) -> list[str]:
            sources = (f"127.0.0.{number}" for number in range(1, 5))
            peers = {each: stack.enter_context(come(server, each, address)) for each in sources}
            return [each for each, peer in peers.items() if outcome(peer) == "served"]

        assert [served(each) for each in server.addresses] == [
            ["127.0.0.1", "127.0.0.3"],
            ["127.0.0.3"],
            ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        ]
        assert over_limit(server)["denied"] == 2 + 3 + 1
        whys = {event["why"] for event in server.find("connection refused", reason="denied")}
        assert whys <= {
            "its network is denied",
            "its network is not among those that are allowed",
        }


def test_a_reload_reads_the_files_anew(tmp_path: Path) -> None:
    """In its workers and in the keeper; a bad file changes nothing, and says what is wrong."""
    denied = tmp_path / "deny.txt"
    denied.write_text("127.0.0.2\n")
    target = write_handler(tmp_path, "v0", is_async=False)
    # Where the last seat is taken the keeper accepts.
    options = ("-k", "prefork", "-w", "1", "--park-after", "0", "--deny-file", str(denied))
    with Server(tmp_path, target, *options) as server, ExitStack() as stack:

        def outcomes() -> list[str]:
            sources = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
            return [outcome(stack.enter_context(come(server, each))) for each in sources]

        assert outcomes() == ["served", "reset", "served"]
        denied.write_text("# since today\n127.0.0.3 # and another\n\n")
        assert outcomes() == ["served", "reset", "served"]
        assert server.reload().exit_code == 0
        assert outcomes() == ["served", "served", "reset"]
        denied.write_text("127.0.0.2\n127.0.0.1/8\n")
        failed = server.cli("reload")
        assert failed.exit_code == 4
        assert failed.stderr.strip().endswith(
            f"--deny-file: {denied}, line 2: expected a network such as 10.0.0.0/8 or an address,"
            " got '127.0.0.1/8' (did you mean 127.0.0.0/8?)"
        )
        assert outcomes() == ["served", "served", "reset"]


def test_an_upgrade_keeps_the_lists(tmp_path: Path) -> None:
    """Where the file is gone by then, too: the reload that follows it fails."""
    denied = tmp_path / "deny.txt"
    denied.write_text("127.0.0.2\n")
    target = write_handler(tmp_path, "v0", is_async=True)
    options = ("-k", "async", "-w", "1", "--deny-file", str(denied))
    with Server(tmp_path, target, *options) as server:
        denied.unlink()
        upgraded = server.cli("upgrade")
        assert upgraded.exit_code == 4
        assert f"--deny-file: cannot read {denied}: No such file" in upgraded.stderr
        for source, expected in ((ONE, "reset"), (OTHER, "served")):
            with come(server, source) as peer:
                assert outcome(peer) == expected


def test_a_bad_list_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """One line each."""
    target = write_handler(tmp_path, "v0", is_async=True)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bad.txt").write_text("10.0.0.0/8\nhost.example\n")
    for options, line in (
        (("--allow-file", "bad.txt"), "--allow-file: bad.txt, line 2: expected a network"),
        (("--deny-file", "none.txt"), "--deny-file: cannot read none.txt: No such file"),
        (("--deny-file", "pipe"), "--deny-file: pipe is no regular file"),
        (("--deny", "10.0.0.1/8"), "--deny: expected a network such as 10.0.0.0/8"),
        (("-b", ":0,allow=10.0.0.300"), "allow: expected a network"),
        (("-b", ":0,max-per-address=-1"), "max-per-address: must be at least 0"),
        (("--accept-rate-per-address", "10/d"), "--accept-rate-per-address: expected off, or RATE"),
        (("--over-limit", "drop"), "--over-limit: expected one of reset, close"),
    ):
        assert line in complaint(run(tmp_path, "serve", target, *options), 2)
