"""A real browser without a window: Chromium, driven over its DevTools protocol.

Over a pipe and not a port, so that no other process can drive it, and no library is needed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Final, Self

from tests.harness.processes import session_processes

_FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-breakpad", "--disable-crash-reporter", "--disable-dev-shm-usage"),
    *(
        "--disable-extensions",
        "--no-proxy-server",
        "--force-color-profile=srgb",
        "--hide-scrollbars",
    ),
    "--remote-debugging-pipe",
)


class Browser:
    """One page in a browser of its own, as a context manager."""

    def __enter__(self) -> Self:
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        self.complaints: list[str] = []  # errors of the page, and what its policy kept out
        # What ends last may still be writing there.
        self._profile = tempfile.TemporaryDirectory(
            prefix="socketkeep-chromium-", ignore_cleanup_errors=True
        )
        ends = os.pipe(), os.pipe()
        # It reads commands from descriptor 3 and answers on 4; these must not be in their way.
        theirs_in, self._to, self._from, theirs_out = (
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for pair in ends for fd in pair
        )
        for fd in (*ends[0], *ends[1]):
            os.close(fd)
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
        command = ["chromium", *_FLAGS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": self._profile.name},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.command(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def command(self, method: str, timeout: float = 30.0, **parameters: object) -> Any:
        """Send a command and return its result."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._message(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.command("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, timeout: float = 30.0) -> Any:
        """Wait until an expression is true in the page, and return what it is.

        Raises TimeoutError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not (value := self.value(expression)):
            if time.monotonic() > deadline:
                text = self.value("document.body.innerText")
                raise TimeoutError(f"{expression}: not within {timeout} s; the page says:\n{text}")
            time.sleep(0.05)  # between two questions, so that asking does not slow the page
        return value

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def resize(self, width: int, height: int, *, phone: bool = False, scale: float = 1) -> None:
        """Show the page at a size, in CSS pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def prefer(self, **features: str) -> None:
        """Have the page believe that its reader prefers this: color_scheme="dark", …"""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.command("Emulation.setEmulatedMedia", features=named)

    def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def _message(self, deadline: float) -> Any:
        while b"\0" not in self._unread:
            readable, _, _ = select.select(
                [self._from], [], [], max(0, deadline - time.monotonic())
            )
            if not readable:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise ConnectionError("the browser has ended")
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(str(parameters["entry"]))

    def _end(self) -> None:
        self._session = None
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            self.command("Browser.close", timeout=10.0)
        for fd in (self._to, self._from):
            os.close(fd)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)
        for pid in session_processes(self._process.pid, timeout=5.0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10.0)
        self._profile.cleanup()
