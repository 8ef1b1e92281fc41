"""Headers as real proxies send them, with the configurations in ``contrib/proxies``."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.harness import Server, connect
from tests.harness.tellers import write_teller
from tests.proxied.support import TELLS, ask, refusals, serving

CONTRIB: Final = Path(__file__).parents[2] / "contrib" / "proxies"
PATIENCE: Final = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def configured(name: str, directory: Path, replaced: dict[str, str]) -> Path:
    """Write contrib's configuration for this test: other ports and files, all else as it is."""
    text = (CONTRIB / name).read_text()
    for old, new in replaced.items():
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    path = directory / name
    path.write_text(text)
    return path


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a proxy until the block ends; it listens on the port before the block begins."""
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, f"{command[0]} is not installed: make packages"
    with subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not listens(port):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, f"{command[0]} does not listen on {port}"
                time.sleep(0.02)  # nothing tells of it
            yield
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def listens(port: int) -> bool:
    """Whether anybody listens there, without a connection that would be passed on."""
    wanted = f"0100007F:{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(line.split()[1:4:2] == [wanted, "0A"] for line in table)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def client_context(authority: trustme.CA, *, certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["chat/1"])
    if certificate:
        authority.issue_cert("dev.example", common_name="device 7").configure_cert(context)
    return context


def site_files(authority: trustme.CA, directory: Path) -> tuple[Path, Path]:
    """Write the certificate of chat.example with its key, and the authority's; return the paths."""
    site, clients = directory / "site.pem", directory / "clients.pem"
    authority.issue_cert("chat.example").private_key_and_cert_chain_pem.write_to_path(site)
    authority.cert_pem.write_to_path(clients)
    return site, clients


@contextmanager
def tls_client(
    port: int, authority: trustme.CA, *, certificate: bool = False
) -> Iterator[ssl.SSLSocket]:
    with (
        connect(f"127.0.0.1:{port}", timeout=PATIENCE) as sock,
        client_context(authority, certificate=certificate).wrap_socket(
            sock, server_hostname="chat.example"
        ) as wrapped,
    ):
        yield wrapped


@contextmanager
def haproxy(server: Server, directory: Path, authority: trustme.CA) -> Iterator[tuple[int, int]]:
    """Run HAProxy before the server; yield its port for TLS and its plain one."""
    site, clients = site_files(authority, directory)
    tls, plain = free_port(), free_port()
    path = configured(
        "haproxy.cfg",
        directory,
        {
            "127.0.0.1:7000": server.address,
            ":7443": f":{tls}",
            ":7080": f":{plain}",
            "/etc/haproxy/site.pem": str(site),
            "/etc/haproxy/clients.pem": str(clients),
        },
    )
    with running(["haproxy", "-db", "-f", str(path)], tls):
        yield tls, plain


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_haproxy(model: str, tmp_path: Path, authority: trustme.CA) -> None:
    """Both versions, and with TLS all that it can tell: version, cipher, certificate, name, id."""
    with (
        serving(tmp_path, model) as server,
        haproxy(server, tmp_path, authority) as (tls, plain),
    ):
        with connect(f"127.0.0.1:{plain}") as sock:
            facts = ask(sock)
            assert facts["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
            assert facts["local"] == f"127.0.0.1:{plain}"
            assert facts["proxy"]["version"] == 1
        with tls_client(tls, authority) as client:
            facts = ask(client)
            port = client.getsockname()[1]
            assert facts["peer"] == f"127.0.0.1:{port}"
            header = facts["proxy"]
            assert (header["version"], header["authority"], header["alpn"], header["checksum"]) == (
                2,
                "chat.example",
                "chat/1",
                True,
            )
            assert bytes.fromhex(header["unique_id"]).startswith(b"127.0.0.1-%d-" % port)
            assert header["tls"] == [client.version(), client.cipher()[0], "", False]  # type: ignore[index]
        with tls_client(tls, authority, certificate=True) as client:
            assert ask(client)["proxy"]["tls"][2:] == ["device 7", True]
        assert refusals(server) == {}


def test_its_clients_through_a_reload(tmp_path: Path, authority: trustme.CA) -> None:
    """TLS ends before the server, so its client is kept through a reload, and stays the client."""
    with (
        serving(tmp_path, "async", "--park-after", "off") as server,
        haproxy(server, tmp_path, authority) as (tls, _),
        tls_client(tls, authority) as client,
    ):
        before = ask(client)
        server.reload()
        after = ask(client)
        assert (before["attached"], after["attached"]) == ("accepted", "reload")
        assert after["peer"] == before["peer"]
        assert after["proxy"] == before["proxy"]


def test_nginx(tmp_path: Path, authority: trustme.CA) -> None:
    """The stream module sends version 1, also where it ends TLS."""
    site, _ = site_files(authority, tmp_path)
    with serving(tmp_path, "thread") as server:
        port, tls = free_port(), free_port()
        stream = configured(
            "nginx-stream.conf",
            tmp_path,
            {
                "server 127.0.0.1:7000": f"server {server.address}",
                ":7080": f":{port}",
                ":7443": f":{tls}",
                "/etc/nginx/site.pem": str(site),
            },
        )
        main = tmp_path / "nginx.conf"
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        load = f"load_module {module};\n" if module.exists() else ""
        main.write_text(
            f"{load}daemon off;\npid {tmp_path}/nginx.pid;\nerror_log stderr;\n"
            f"events {{}}\ninclude {stream};\n"
        )
        with (
            running(["nginx", "-c", str(main), "-e", "stderr"], port),
            connect(f"127.0.0.1:{port}") as sock,
        ):
            facts = ask(sock)
            assert facts["peer"] == f"127.0.0.1:{sock.getsockname()[1]}"
            assert facts["local"] == f"127.0.0.1:{port}"
            assert facts["proxy"]["version"] == 1
            with tls_client(tls, authority) as client:
                facts = ask(client)
                assert facts["peer"] == f"127.0.0.1:{client.getsockname()[1]}"
                assert facts["local"] == f"127.0.0.1:{tls}"
                assert facts["proxy"]["tls"] is None


def test_the_edge(tmp_path: Path, authority: trustme.CA) -> None:
    """The configuration of the server's own edge, with nothing in front."""
    site, _ = site_files(authority, tmp_path)
    tls, plain = free_port(), free_port()
    path = configured(
        "edge.toml",
        tmp_path,
        {
            "/etc/socketkeep/site.pem": str(site),
            ":7443": f":{tls}",
            ":7025": f":{plain}",
            "app:handle": write_teller(tmp_path, TELLS, "async"),
        },
    )
    command = [sys.executable, "-m", "socketkeep", "serve", "--config", str(path)]
    with (
        running([*command, "--chdir", str(tmp_path), "--control", str(tmp_path / "c")], tls),
        tls_client(tls, authority) as client,
        connect(f"127.0.0.1:{plain}", timeout=PATIENCE) as sock,
    ):
        for each, port in ((client, tls), (sock, plain)):
            facts = ask(each)
            assert facts["peer"] == f"127.0.0.1:{each.getsockname()[1]}"
            assert facts["local"] == f"127.0.0.1:{port}"
            assert facts["proxy"] is None


def test_hitch(tmp_path: Path, authority: trustme.CA) -> None:
    """It sends version 2, with the protocol that was agreed on and what TLS is spoken."""
    site, _ = site_files(authority, tmp_path)
    # It does not work as root.
    as_nobody = ["--user=nobody", "--group=nogroup"] if os.geteuid() == 0 else []
    with serving(tmp_path, "thread") as server:
        port = free_port()
        path = configured(
            "hitch.conf",
            tmp_path,
            {
                "[127.0.0.1]:7000": f"[127.0.0.1]:{server.port}",
                '"7443"': f'"{port}"',
                "/etc/hitch/site.pem": str(site),
            },
        )
        with (
            running(["hitch", f"--config={path}", *as_nobody], port),
            tls_client(port, authority) as client,
        ):
            facts = ask(client)
            assert facts["peer"] == f"127.0.0.1:{client.getsockname()[1]}"
            assert facts["proxy"]["version"] == 2
            assert facts["proxy"]["alpn"] == "chat/1"
            assert facts["proxy"]["tls"][0] == client.version()
