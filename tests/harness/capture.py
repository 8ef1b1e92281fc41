"""What leaves the server on the loopback interface."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_PACKET = re.compile(r" > \S+?\.(\d+): Flags \[([^\]]*)\]")
_DROPPED = re.compile(r"(\d+) packets? dropped by kernel")


@dataclass(slots=True)
class Flags:
    """Segments with FIN or RST that left the server, counted by the port of the peer."""

    fin: Counter[int] = field(default_factory=Counter)
    reset: Counter[int] = field(default_factory=Counter)

    def to(self, ports: Iterable[int]) -> tuple[int, int]:
        """Return how many FIN and how many RST went to these ports."""
        wanted = set(ports)
        return (
            sum(number for port, number in self.fin.items() if port in wanted),
            sum(number for port, number in self.reset.items() if port in wanted),
        )


class Capture:
    """A capture of the FIN and RST segments that leave `port`, as a context manager.

    It is running when entered, and `stop` returns all that was sent before it was called: tcpdump
    says when it listens, and a datagram that it is waited for to show marks the end.
    """

    def __init__(self, port: int) -> None:
        self.flags = Flags()
        self._marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._marker.bind(("127.0.0.1", 0))
        self._marker_port = self._marker.getsockname()[1]
        flags = f"tcp src port {port} and tcp[tcpflags] & (tcp-fin|tcp-rst) != 0"
        self._command = [
            # Headers alone: each packet takes a slot of this size in the ring.
            *("tcpdump", "-i", "lo", "-n", "-l", "--immediate-mode", "-B", "8192", "-s", "128"),
            f"({flags}) or (udp dst port {self._marker_port})",
        ]
        self._ended = threading.Event()
        self._lines: list[str] = []

    @staticmethod
    def missing() -> str:
        """Return why this machine cannot capture, empty if it can."""
        if shutil.which("tcpdump") is None:
            return "tcpdump is not installed"
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        except PermissionError:
            return "capturing needs CAP_NET_RAW"
        return ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        heard = []
        for line in self._process.stderr:
            heard.append(line)
            if "listening on" in line:
                break
        else:
            self.stop()
            raise RuntimeError(f"tcpdump did not start: {''.join(heard)}")
        self._reader = threading.Thread(target=self._read, name="capture", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._marker.close()

    def stop(self) -> Flags:
        """End the capture; return what left the server while it ran.

        Raises RuntimeError if the kernel dropped packets, so that the counts would be too low.
        """
        self._marker.sendto(b"end", ("127.0.0.1", self._marker_port))
        if not self._ended.wait(10.0):
            raise RuntimeError("tcpdump did not show the datagram that ends the capture")
        self._process.terminate()
        self._reader.join(10.0)
        assert self._process.stderr is not None
        report = self._process.stderr.read()
        dropped = _DROPPED.search(report)
        if dropped is None or int(dropped[1]):
            raise RuntimeError(f"the capture is not whole: {report}")
        for line in self._lines:
            self._count(line)
        return self.flags

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if f".{self._marker_port}: UDP" in line:
                self._ended.set()

    def _count(self, line: str) -> None:
        packet = _PACKET.search(line)
        if packet is None:
            return
        port, flags = int(packet[1]), packet[2]
        self.flags.fin[port] += "F" in flags
        self.flags.reset[port] += "R" in flags
