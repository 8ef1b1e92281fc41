"""Certificates: how one is chosen, and what is wrong with those that will not do, a line each."""

from __future__ import annotations

import datetime as dt
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.edge.support import AUTHORITY, BadTls, Files, client_context, issue, server_tls

PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def shake(
    tls: Any,
    name: str | None,
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, Any]:
    """Shake hands in memory; return both sides."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = context or client_context(check_hostname=False)
    client = context.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server = tls.begin(to_server, to_client)
    waiting: list[ssl.SSLObject] = [client, server]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting, "the handshake does not end"
    server.write(b"x")
    assert client.read(1) == b"x"  # with it has come the ticket of TLS 1.3
    return client, server


def names_of(client: ssl.SSLObject) -> list[str]:
    told: Any = client.getpeercert()
    return [value for _, value in told["subjectAltName"]]


def test_the_name_chooses(tmp_path: Path) -> None:
    """A wildcard stands for one label; whose name none has gets the first."""
    one = issue(tmp_path, "one.example", stem="one")
    two = issue(tmp_path, "two.example", "*.two.example", stem="two")
    tls = server_tls(one, two, alpn=("h2", "x"))
    for name, expected in (
        ("one.example", "one.example"),
        ("TWO.example", "two.example"),
        ("a.two.example", "two.example"),
        ("a.b.two.example", "one.example"),
        ("else.example", "one.example"),
        (None, "one.example"),
    ):
        client, server = shake(tls, name)
        assert expected in names_of(client)
        assert server.asked_for == (name and name.lower())
    assert all(each.expires > 0 for each in tls.certificates)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    """What a client sends in the place of a name goes no further, and it gets the first one."""
    tls = server_tls(issue(tmp_path, "one.example"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(check_hostname=False).wrap_bio(
        to_client, to_server, server_hostname="abcdefgh"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = to_server.read()
    assert hello.count(b"abcdefgh") == 1
    to_server.write(hello.replace(b"abcdefgh", b"a\n\x1b[31m."))
    server = tls.begin(to_server, to_client)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    assert server.asked_for is None
    assert to_client.pending  # its answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_outlive_certificates_and_not_their_keys(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    files = issue(tmp_path, "one.example")
    tls = server_tls(files)
    context = client_context(check_hostname=False, maximum_version=version)
    client, server = shake(tls, "one.example", context)
    assert not server.session_reused
    assert not tls.renew()  # nothing has changed
    files.put(AUTHORITY.issue_cert("one.example", "more.example"))
    assert tls.renew()
    again, server = shake(tls, "one.example", context, client.session)
    assert server.session_reused
    fresh, _ = shake(tls, "one.example", context)
    assert "more.example" in names_of(fresh)
    tls.use_secrets([b"new", b"old"])  # of which the old one is of no use without a way to set it
    _, server = shake(tls, "one.example", context, again.session)
    assert not server.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_edges_take_each_others_tickets(version: ssl.TLSVersion, tmp_path: Path) -> None:
    """Also those of the time before, and none of the one before that, nor of other listeners."""
    files = issue(tmp_path, "one.example")
    authorities = tmp_path / "authorities.pem"
    AUTHORITY.cert_pem.write_to_path(str(authorities))
    context = client_context(check_hostname=False, maximum_version=version)
    AUTHORITY.issue_cert("device-7").configure_cert(context)

    def edge(*secrets: bytes, **more: Any) -> Any:
        made = server_tls(files, **more, shares=True)
        made.use_secrets(secrets)
        return made

    def resumes(tls: Any, session: ssl.SSLSession | None) -> bool:
        return bool(shake(tls, "one.example", context, session)[1].session_reused)

    client, _ = shake(edge(b"first"), "one.example", context)
    assert resumes(edge(b"first"), client.session)
    assert resumes(edge(b"second", b"first"), client.session)
    assert resumes(edge(b"second", b"first"), shake(edge(b"second"), None, context)[0].session)
    assert not resumes(edge(b"third", b"second"), client.session)
    assert not resumes(edge(b"first", client_ca=str(authorities)), client.session)


def test_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    files = issue(tmp_path, "one.example")
    tls = server_tls(files)
    files.certificate.write_text("nothing")
    with pytest.raises(BadTls, match=r"^tls: .*server.pem"):
        tls.renew()
    files.certificate.unlink()
    with pytest.raises(BadTls, match=r"^tls: cannot read .*server.pem: No such file"):
        tls.renew()
    client, _ = shake(tls, "one.example")
    assert names_of(client) == ["one.example"]


def test_whom_nobody_vouches_for_any_more_cannot_resume(tmp_path: Path) -> None:
    """New authorities are new keys of tickets: a session was of a client that they had signed."""
    authorities = tmp_path / "authorities.pem"
    AUTHORITY.cert_pem.write_to_path(str(authorities))
    tls = server_tls(issue(tmp_path), client_ca=str(authorities))
    context = client_context(check_hostname=False, maximum_version=ssl.TLSVersion.TLSv1_2)
    AUTHORITY.issue_cert("client.example").configure_cert(context)
    client, server = shake(tls, "one.example", context)
    assert server.getpeercert(True)
    trustme.CA().cert_pem.write_to_path(str(authorities))
    assert tls.renew()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(tls, "one.example", context, client.session)


def test_what_has_expired_is_a_mistake_but_at_a_start_in_need(tmp_path: Path) -> None:
    """An edge that is started again has to serve with what there is."""
    files = issue(tmp_path, not_before=PAST, not_after=PAST + dt.timedelta(days=1))
    with pytest.raises(BadTls, match=r"server.pem: it has expired$"):
        server_tls(files)
    assert [each.expires for each in server_tls(files, wary=False).certificates] == [0]


def test_mistakes(tmp_path: Path) -> None:
    """Each is one line that names the option and the file."""
    good, other = issue(tmp_path, stem="good"), issue(tmp_path, stem="other")
    mixed = Files(good.certificate, other.key)
    nothing = Files(tmp_path / "nothing", good.key)
    alone = Files(good.certificate, good.certificate)
    wrong = Files(good.certificate, Path(f"{good.certificate}.copy"))
    wrong.key.write_bytes(good.certificate.read_bytes())
    for made, line in (
        (
            partial(server_tls, mixed),
            "good.pem, key .*other.key: the key does not fit the certificate",
        ),
        (partial(server_tls, nothing), "^tls: cannot read .*nothing: No such file or directory"),
        (
            partial(server_tls, alone),
            "good.pem: no such PEM can be read there; a key in another file is named by key=$",
        ),
        (
            partial(server_tls, wrong),
            "^tls: .*good.pem, key .*good.pem.copy: no such PEM can be read there$",
        ),
        (
            partial(server_tls, good, other),
            "^tls: .*other.pem: .*good.pem is for keeper.example, too",
        ),
        (
            partial(server_tls, good, ciphers="none-such"),
            "^ciphers: 'none-such': there is no such cipher",
        ),
        (partial(server_tls, good, client_ca=str(good.key)), "^client-ca: .*good.key: "),
        (
            partial(server_tls, good, client_ca="/nonexistent"),
            "^client-ca: cannot read /nonexistent",
        ),
        (
            partial(server_tls, good, key_password_file="/nonexistent"),
            "^key-password-file: cannot read",
        ),
    ):
        with pytest.raises(BadTls, match=line) as caught:
            made()
        assert "\n" not in str(caught.value)


def test_a_pass_phrase(tmp_path: Path) -> None:
    """It is read from its file; without one nobody is asked at a terminal."""
    from cryptography.hazmat.primitives import serialization

    files = issue(tmp_path)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\n")
    server_tls(files, key_password_file=str(phrase))
    phrase.write_text("close sesame\n")
    line = f"key-password-file: {phrase}: it has not the pass phrase of {files.key}"
    with pytest.raises(BadTls, match=f"^{line}$"):
        server_tls(files, key_password_file=str(phrase))
    with pytest.raises(BadTls, match="it has a pass phrase: give key-password-file=FILE"):
        server_tls(files)
