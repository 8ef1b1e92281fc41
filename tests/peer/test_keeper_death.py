"""The keeper is killed: what it leaves serves on, and the next keeper takes it over."""

from __future__ import annotations

import os
import signal
from typing import Final

import pytest

from tests.harness import Load, Server, connect, read_reply
from tests.peer.conftest import Site
from tests.server.support import accepts

CLIENTS: Final = 8
# What is parked the keeper alone has, and it ends with the keeper.
UNPARKED: Final = ("--park-after", "off")


def kill(server: Server) -> None:
    """End the keeper as the out-of-memory killer does; return when a worker waits for another."""
    server.signal(signal.SIGKILL)
    server.process.wait(10.0)
    wait_left(server)


def wait_left(server: Server) -> None:
    """Wait until a worker of `server` waits for another keeper.

    A `prefork` worker that serves looks once a second.  Before that, a server that binds port 0,
    as these do, has nobody to get the old port from, and finds another one free.
    """
    place = server.control.with_suffix(".d")
    server.wait_until(lambda: any(place.glob("[0-9]*.sock")), "a worker that waits for a keeper")


@pytest.mark.parametrize("keep", ["reload", "crash"])
@pytest.mark.timeout(120)
def test_the_next_keeper_takes_all_over(tcp_site: Site, keep: str) -> None:
    """Peers are answered without a keeper, then by the next one's workers, and lose nothing."""
    target = tcp_site.write("v0")
    options = (*UNPARKED, "--keep", keep)
    with (
        tcp_site.serve(target, *options, clients=CLIENTS) as first,
        Load(first.address, CLIENTS, pause=0.05) as load,
    ):
        load.wait_version("v0")
        kill(first)
        load.wait_replies(10)
        tcp_site.write("v1")
        # These come to a listener at which nobody accepts: they wait, and are not refused.
        with connect(first.address) as early:
            early.sendall(b"x\n")
            with tcp_site.serve(target, *options, clients=CLIENTS, spare=2) as second:
                assert second.address == first.address
                load.wait_version("v1")
                assert read_reply(early) == b"1 x v1"
                with connect(second.address) as late:
                    late.sendall(b"y\n")
                    assert read_reply(late) == b"1 y v1"
                second.wait_until(
                    lambda: second.status()["workers"]["draining"] == 0, "the old workers' end"
                )
                totals = second.status()["totals"]
                assert totals["attached"]["reload"] == CLIENTS
                assert totals["lost"] == 0
                names = [each["id"] for each in second.connections()]
                assert len(set(names)) == len(names) >= CLIENTS
                tally = load.finish()
                assert tally.clean, tally.summary()
        assert not first.processes(timeout=5.0)
        assert not first.find("worker failed")
        assert not first.find("handler failed")


def test_killed_again_and_again(some_site: Site) -> None:
    """The third keeper takes over from the second what that had from the first."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, *UNPARKED, clients=4, spare=2) as first,
        Load(first.address, 4, pause=0.05) as load,
    ):
        load.wait_version("v0")
        kill(first)
        some_site.write("v1")
        with some_site.serve(target, *UNPARKED, clients=4, spare=2) as second:
            # On the way from one worker to another a connection would end with the keeper.
            second.wait_until(
                lambda: second.status()["totals"]["attached"]["reload"] == 4, "all to be moved"
            )
            kill(second)
            load.wait_replies(10)
            some_site.write("v2")
            with some_site.serve(target, *UNPARKED, clients=4, spare=2) as third:
                load.wait_version("v2")
                tally = load.finish()
                assert tally.clean, tally.summary()
                third.wait_until(
                    lambda: third.status()["workers"]["draining"] == 0, "the old workers' end"
                )
            assert not second.processes(timeout=5.0)
        assert not first.processes(timeout=5.0)


def test_a_successor_that_cannot_start(some_site: Site) -> None:
    """It leaves the workers and their listeners to the next one."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, *UNPARKED, clients=4) as first,
        Load(first.address, 4, pause=0.05) as load,
    ):
        load.wait_version("v0")
        kill(first)
        some_site.write("v1", tail="raise RuntimeError('not today')")
        failing = some_site.serve(target, *UNPARKED, clients=4)
        failing._wait_ready = False
        with failing as second:
            assert second.wait_exit() == 4
        wait_left(first)
        some_site.write("v2")
        with some_site.serve(target, *UNPARKED, clients=4) as third:
            assert third.address == first.address
            load.wait_version("v2")
            tally = load.finish()
            assert tally.clean, tally.summary()
        assert not first.processes(timeout=5.0)


def test_another_target_is_not_given_its_connections(some_site: Site) -> None:
    """They are drained by the workers that have them; new ones are the new server's."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, *UNPARKED, clients=2) as first,
        connect(first.address) as peer,
    ):
        peer.sendall(b"x\n")
        assert read_reply(peer) == b"1 x v0"
        kill(first)
        other = Site(some_site.model, "ipv4", some_site.directory / "other").write("v1")
        with some_site.serve(other, *UNPARKED, clients=2) as second:
            adopted = second.wait_event("worker adopted")
            assert adopted["drained"] == f"it serves {target}"
            peer.sendall(b"y\n")
            assert read_reply(peer) == b"2 y v0"
            with connect(second.address) as late:
                late.sendall(b"z\n")
                assert read_reply(late) == b"1 z v1"
            peer.close()
            second.wait_until(
                lambda: second.status()["workers"]["draining"] == 0, "the old workers' end"
            )
        assert not first.processes(timeout=5.0)


def test_adopt_from_another_place(some_site: Site) -> None:
    """A server of another name takes over what it is pointed to."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, *UNPARKED, clients=2) as first,
        Load(first.address, 2, pause=0.05) as load,
    ):
        load.wait_version("v0")
        kill(first)
        some_site.write("v1")
        elsewhere = some_site.directory / "elsewhere.sock"
        options = ("--control", str(elsewhere), "--adopt-from", str(first.control), *UNPARKED)
        with some_site.serve(target, *options, clients=2) as second:
            second.control = elsewhere
            assert second.address == first.address
            load.wait_version("v1")
            tally = load.finish()
            assert tally.clean, tally.summary()
        assert not first.processes(timeout=5.0)
        assert not first.control.with_suffix(".d").exists()


def test_adopt_from_nowhere(some_site: Site) -> None:
    """Is told, and the server starts all the same; a living server keeps what it has."""
    target = some_site.write("v0")
    nowhere = ("--adopt-from", str(some_site.directory / "nobody.sock"))
    with some_site.serve(target, *nowhere, clients=1) as server:
        server.wait_event("nothing to adopt: no worker waits there")
        other = Site(some_site.model, "ipv4", some_site.directory / "other")
        alive = other.serve(target, "--adopt-from", str(server.control), clients=1)
        alive._wait_ready = False
        with alive:
            assert alive.wait_exit() == 1
            assert "is alive" in alive.stderr[-1]


def test_workers_without_a_successor(tcp_site: Site) -> None:
    """Serve what they have, hold the listeners for a while, and then leave nothing behind."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, *UNPARKED, "--orphan-timeout", "1", clients=2) as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"x\n")
        assert read_reply(peer) == b"1 x v0"
        kill(server)
        server.wait_event("the keeper is gone: serving what is open, then ending")
        peer.sendall(b"y\n")
        assert read_reply(peer) == b"2 y v0"
        server.wait_until(lambda: not accepts(server.address), "the listener's end")
        peer.sendall(b"z\n")
        assert read_reply(peer) == b"3 z v0"
        peer.close()
        assert not server.processes(timeout=5.0)
        assert not server.control.with_suffix(".d").exists()


def test_a_keeper_that_is_stopped_and_continued(tcp_site: Site) -> None:
    """Workers serve on meanwhile, and a reload that is asked for then is done afterwards."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, *UNPARKED, "--worker-timeout", "1", clients=4) as server,
        Load(server.address, 4, pause=0.05) as load,
    ):
        load.wait_version("v0")
        server.signal(signal.SIGSTOP)
        tcp_site.write("v1")
        server.signal(signal.SIGHUP)
        load.wait_replies(200)  # at 20 a second each: longer than a worker may be silent
        server.signal(signal.SIGCONT)
        load.wait_version("v1")
        tally = load.finish()
        assert tally.clean, tally.summary()
        assert not server.find("worker killed: it made no progress")


def test_a_template_that_is_killed(tcp_site: Site) -> None:
    """Serving goes on, and what needs a template finds a new one."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, *UNPARKED, clients=4, spare=1) as server,
        Load(server.address, 4, pause=0.05) as load,
    ):
        load.wait_version("v0")
        known = {server.pid, *(worker["pid"] for worker in server.workers())}
        known |= {each["owner"] for each in server.connections()}
        (template,) = server.processes().keys() - known
        os.kill(template, signal.SIGKILL)
        server.wait_event("template ended")
        load.wait_replies(10)
        since = server.mark()
        server.scale(len(server.workers()) + 1)
        server.wait_event("worker ready", since=since)
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_silent_connections_are_taken_over_too(site: Site) -> None:
    """Nobody has to speak for it, and whatever kind of socket the listener is, it is kept."""
    target = site.write("v0")
    with (
        site.serve(target, *UNPARKED, clients=2) as first,
        connect(first.address) as one,
        connect(first.address) as other,
    ):
        for peer in (one, other):
            peer.sendall(b"x\n")
            assert read_reply(peer) == b"1 x v0"
        kill(first)
        site.write("v1")
        with site.serve(target, *UNPARKED, clients=2, spare=1) as second:
            second.wait_until(
                lambda: second.status()["totals"]["attached"]["reload"] == 2, "both to be moved"
            )
            for peer in (one, other):
                peer.sendall(b"y\n")
                assert read_reply(peer) == b"2 y v1"
            with connect(second.address) as late:
                late.sendall(b"z\n")
                assert read_reply(late) == b"1 z v1"
            one.close()
            other.close()
            second.signal(signal.SIGTERM)
            assert second.wait_exit() == 0
        assert not first.processes(timeout=5.0)
        if site.transport == "unix":
            assert not (site.directory / "listener").exists()
