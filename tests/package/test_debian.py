"""The Debian package: made of the wheel; installed, used and removed in a root of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.package.conftest import ROOT

#: The core of the wheel that was built, as `make package` has it, or the release workflow.
CORE: Final = "pure Python" if os.environ.get("SOCKETKEEP_PURE") else "compiled core"
#: Runs a script over this machine's root, of which nothing is changed.
IN_A_ROOT: Final = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/run"
cp "$2" "$1/root/opt/socketkeep.deb"
exec chroot "$1/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -euc "$3"
"""
LIFE: Final = """
dpkg -i /opt/socketkeep.deb >/dev/null
socketkeep --version
id -un socketkeep
systemd-analyze verify socketkeep@shop.service
man -w socketkeep-serve
bash -n /usr/share/bash-completion/completions/socketkeep
socketkeep serve /usr/share/doc/socketkeep/examples/counter.py:handle -b 127.0.0.1:0 2>/opt/log &
until socketkeep listeners --json >/opt/listeners 2>/dev/null; do
    kill -0 $! 2>/dev/null || { cat /opt/log; exit 1; }
done
port=$(sed -n 's/.*"address": "127.0.0.1:\\(.*\\)".*/\\1/p' /opt/listeners)
exec 3<>"/dev/tcp/127.0.0.1/$port"
echo a >&3; read -r -u 3 reply; echo "$reply"
socketkeep reload >/dev/null 2>&1
echo b >&3; read -r -u 3 reply; echo "$reply"
exec 3>&-
socketkeep stop >/dev/null 2>&1
wait $!
echo "ended with $?"
dpkg --verify socketkeep
dpkg -P socketkeep >/dev/null
ls -d /usr/lib/socketkeep /usr/bin/socketkeep /etc/socketkeep 2>/dev/null || echo "all is gone"
"""


@pytest.fixture(scope="module")
def package(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package."""
    out = tmp_path_factory.mktemp("debian")
    done = subprocess.run(
        [ROOT / "contrib" / "debian" / "build", wheel, out],
        env={**os.environ, "PIP": str(Path(sys.executable).with_name("pip"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.deb")
    assert done.stdout == f"{made}\n"
    return made


def shown(package: Path, *what: str) -> str:
    done = subprocess.run(
        ["dpkg-deb", what[0], package, *what[1:]], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.timeout(120)  # the package is made for the first of them
def test_it_is_described(package: Path, version: str) -> None:
    assert shown(package, "--field", "Version").replace("~", "") == f"{version}-1"
    needs = [each.split()[0] for each in shown(package, "--field", "Depends").split(", ")]
    assert needs[:3] == ["python3", "python3", "adduser"]
    assert "libc6" in needs


def test_nothing_in_it_says_where_it_was_made(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    told = [
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and re.search(rb"/tmp/tmp\.\w{10}", path.read_bytes())
    ]
    assert told == []
    owners = {line.split()[1] for line in shown(package, "--contents").splitlines()}
    assert owners == {"root/root"}


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts and installs")
def test_it_is_installed_used_and_removed(package: Path, tmp_path: Path, version: str) -> None:
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "sh", "-euc", IN_A_ROOT, "sh"),
            *(tmp_path, package, LIFE),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (
        0,
        [
            f"socketkeep {version} ({CORE})",
            *(
                "socketkeep",
                "/usr/share/man/man1/socketkeep-serve.1.gz",
                "1 a",
                "2 b",
                "ended with 0",
                "all is gone",
            ),
        ],
        "",
    )
