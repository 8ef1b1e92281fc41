"""The files of contrib/container, and the release workflow, by their readers' schemas; the image.

It is built, and runc runs it.

The build has no network: what the Dockerfile begins from is an image of this machine's directories,
in which pip finds this project's wheel and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance.containers import Container, runtime_config
from tests.harness import connect, read_reply

CONTRIB: Final = Path(__file__).parents[2] / "contrib" / "container"
ROOT: Final = Path(__file__).parents[2]
HANDLER: Final = """
from socketkeep import AsyncConnection, resumable

@resumable
async def handle(conn: AsyncConnection) -> None:
    count = conn.state or 0
    async for line in conn.lines():
        count += 1
        await conn.send(b"%d\\n" % count)
        conn.commit(count)
"""


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run what the environment of these tests has."""
    path = Path(sys.executable).parent / command
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("version", ["1.29", "1.33"])
@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ("", "", True),
        ("restartPolicy: Always", "restartPolicy: Always\n          restarts: always", False),
        ("containerPort: 7000", "containerPort: seven", False),
    ],
)
def test_kubernetes(tmp_path: Path, version: str, before: str, after: str, fits: bool) -> None:
    """By the schemas of the first Kubernetes with native sidecars and of a later one."""
    text = (CONTRIB / "kubernetes.yaml").read_text()
    assert before in text
    file = tmp_path / "kubernetes.yaml"
    file.write_text(text.replace(before, after))
    done = run("kubernetes-validate", "--strict", "-k", version, str(file))
    assert (done.returncode == 0) == fits, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [("", "", True), ("stop_grace_period", "stop_grace", False), ("true", "[true]", False)],
)
def test_compose(tmp_path: Path, before: str, after: str, fits: bool) -> None:
    text = (CONTRIB / "compose.yaml").read_text()
    file = tmp_path / "compose.yaml"
    file.write_text(text.replace(before, after))
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(file))
    assert (done.returncode == 0) == fits, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after", "fits"), [("", "", True), ("runs-on: ubuntu", "runs_on: ubuntu", False)]
)
def test_release_workflow(tmp_path: Path, before: str, after: str, fits: bool) -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    file = tmp_path / "release.yml"
    file.write_text(text.replace(before, after))
    done = run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(file))
    assert (done.returncode == 0) == fits, done.stdout + done.stderr


def test_dockerfile() -> None:
    done = run("hadolint", str(CONTRIB / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")
    assert f"ARG SOCKETKEEP={version('socketkeep')}\n" in (CONTRIB / "Dockerfile").read_text()


class Image:
    """The image of the Dockerfile, built in `directory`."""

    def __init__(self, directory: Path) -> None:
        store = f"--root {directory}/store --runroot {directory}/run --storage-driver vfs"
        self._places = store.split()
        self._binds = {
            path: Path(path)
            for path in {"/usr", sys.base_prefix, sys.prefix, str(directory / "wheels")}
        }
        volumes = [word for path in self._binds for word in ("--volume", f"{path}:{path}:ro")]
        wheels = directory / "wheels"
        outer = {**os.environ, "SOCKETKEEP_NATIVE": "1"}
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=ROOT, env=outer, capture_output=True, timeout=50, check=True)
        self._make_base(directory, wheels)
        context = directory / "context"
        context.mkdir()
        (wheel,) = wheels.glob("socketkeep-*.whl")
        shutil.copy(wheel, context)
        (context / "app.py").write_text(HANDLER)
        (context / "Dockerfile").write_bytes((CONTRIB / "Dockerfile").read_bytes())
        self._buildah("bud", "--pull-never", *volumes, "-t", "app", str(context))
        self._buildah("from", "--name", "app", "app")
        self.root = Path(self._buildah("mount", "app").strip())
        self.config: dict[str, Any] = json.loads(self._buildah("inspect", "app"))["OCIv1"]["config"]

    def _make_base(self, directory: Path, wheels: Path) -> None:
        """Make what the Dockerfile begins from: this machine's commands, and its Python."""
        base = directory / "base"
        for name in ("etc", "tmp", "usr", "app", "run/keep", "opt/site", "var", "root"):
            (base / name).mkdir(parents=True)
        (base / "tmp").chmod(0o1777)
        for path in (sys.base_prefix, sys.prefix, str(wheels)):
            (base / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for each in Path("/").iterdir():
            if each.is_symlink():
                (base / each.name).symlink_to(each.readlink())
        for name in ("passwd", "group", "shadow", "login.defs"):
            (base / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n" * (name == "passwd"))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = [
            f"/opt/site/lib/{version}/site-packages",
            f"{sys.prefix}/lib/{version}/site-packages",
        ]
        (directory / "Dockerfile").write_text(
            "FROM scratch\nCOPY base/ /\n"
            f"ENV PATH=/opt/site/bin:{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            f" PYTHONPATH={':'.join(packages)} PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels}"
            " PIP_PREFIX=/opt/site PIP_IGNORE_INSTALLED=1 PIP_NO_DEPS=1\n"
        )
        (first, *_) = re.findall(r"^FROM (.*)$", (CONTRIB / "Dockerfile").read_text(), re.MULTILINE)
        self._buildah("bud", "-t", f"docker.io/library/{first}", str(directory))

    def _buildah(self, command: str, *arguments: str) -> str:
        """Run a command of buildah's; return what it printed."""
        done = subprocess.run(
            ["buildah", *self._places, command, *arguments],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, bundle: Path, keep: Path, *command: str) -> Container:
        """Return a container of the image, with `keep` as the directory of the guard's socket.

        command: in the place of the image's.
        """
        bundle.mkdir()
        config = runtime_config(
            self.root,
            [*self.config["Entrypoint"], *command],
            self.config["Env"],
            user=int(self.config["User"]),
            cwd=self.config["WorkingDir"],
            binds={**self._binds, "/run/keep": keep},
        )
        return Container(bundle, config)


@pytest.mark.timeout(120)
def test_the_image(tmp_path: Path) -> None:
    """It is built, not root, and one container of it after another serves the same connection."""
    image = Image(tmp_path)
    keep = tmp_path / "keep"
    keep.mkdir()
    os.chown(keep, 10001, 10001)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [word.replace("0.0.0.0:7000", f"127.0.0.1:{port}") for word in image.config["Cmd"]]
    guard = ("guard", "--listen", "unix:/run/keep/guard.sock")
    with image.container(tmp_path / "guard", keep, *guard) as sidecar:
        sidecar.output.wait_for("guarding")
        assert (keep / "guard.sock").stat().st_uid == 10001
        with image.container(tmp_path / "first", keep, *command, "--keep-after", "0") as first:
            first.output.wait_for("ready generation")
            client = connect(f"127.0.0.1:{port}")
            client.sendall(b"x\n")
            assert read_reply(client) == b"1"
            assert first.stop("TERM") == 0
        with (
            client,
            image.container(tmp_path / "second", keep, *command, "--keep-after", "0") as second,
        ):
            client.sendall(b"x\n")
            assert read_reply(client) == b"2"
            assert second.stop("TERM") == 0
