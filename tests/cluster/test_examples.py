"""The examples over two nodes, by the commands of the page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.admin.web import admin_port, post_push
from tests.cluster.broker import Broker
from tests.cluster.test_served import joined
from tests.examples.conftest import EXAMPLES, Talk
from tests.examples.test_gateway import Device
from tests.harness import Server

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOKEN = "a-token-of-sixteen-letters"


def page() -> dict[str, str]:
    """Return what the page shows of each command's output, by the command."""
    shown = {}
    for block in CONSOLE.findall(PAGE.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            shown[command] = output
    return shown


def shape(text: str) -> list[list[str]]:
    """Return the words of an output, line by line, without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{8}-\d+-\d+\b", "ID", text)
    text = re.sub(r"\b[\w.-]+/[\w.-]+\b", "NODE", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[ExitStack, Broker, Path]]:
    with Broker(tmp_path / "broker") as broker, ExitStack() as stack:
        yield stack, broker, tmp_path


def two(nodes: tuple[ExitStack, Broker, Path], example: str, *options: str) -> list[Server]:
    """Start two nodes, which have the code in places of their own."""
    stack, broker, path = nodes
    servers = []
    for name in ("north", "south"):
        directory = path / name
        directory.mkdir()
        shutil.copy(EXAMPLES / f"{example}.py", directory)
        cluster = ("--name", name, "--cluster", broker.url, "--cluster-lease", "2")
        server = Server(directory, f"{directory}/{example}.py:service", *cluster, *options)
        servers.append(stack.enter_context(server))
    for server in servers:
        joined(server, 2)
    return servers


def test_the_gateway_by_the_commands_of_the_page(
    nodes: tuple[ExitStack, Broker, Path],
) -> None:
    north, south = two(nodes, "gateway", "--admin", "127.0.0.1:0", "--push-token", TOKEN)
    shown = {command: output for command, output in page().items() if output}
    with (
        closing(Device(south, "device-17", "north")) as device,
        closing(Device(north, "device-18", "north")) as other,
    ):
        north.wait_until(lambda: north.cli("who", "device-17").exit_code == 0, "device-17 is known")
        for command, output in shown.items():
            program, *arguments = re.findall(r"'[^']*'|\S+", command)
            assert program == "socketkeep"
            done = north.cli(*(each.strip("'") for each in arguments))
            wanted, got = shape(output), shape(done.stdout)
            if arguments == ["status"]:  # of which the page shows some lines
                wanted, got = (
                    [line for line in each if "NODE" in line or "cluster" in line]
                    for each in (wanted, got)
                )
            assert got == wanted, command
            assert done.exit_code == 0
        assert [device.hear(), device.hear()] == [{"set": "on"}, {"report": 1}]
        assert other.hear() == {"report": 1}
        answer = post_push(admin_port(north), "/push/device-17", b'{"set": "off"}', TOKEN)
        assert answer.status == 200
        assert device.hear() == {"set": "off"}


def test_a_chat_over_two_nodes(nodes: tuple[ExitStack, Broker, Path]) -> None:
    stack = nodes[0]
    talks = []
    for server, nick in zip(two(nodes, "chat"), ("ada", "ben"), strict=True):
        talk = stack.enter_context(Talk("socat", "-", f"TCP:{server.address}"))
        assert talk.hear().startswith("* you are guest-")
        talk.say(f"/nick {nick}")
        talk.hear_up_to(f"* you are {nick}")  # behind what the other node's rooms may still tell
        talks.append(talk)
    ada, ben = talks
    ada.hear_up_to("is now ben")
    ben.say("good morning")
    assert ada.hear() == "ben: good morning"
    ada.say("/who")
    assert {ada.hear(), ada.hear()} == {"* ada is in lobby", "* ben is in lobby"}
