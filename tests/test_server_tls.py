"""A server's certificates: what would fail when the first client comes is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority
from cryptography.hazmat.primitives import serialization

from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.profiles.errors import ServeError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def test_good_files_pass(authority: Authority) -> None:
    server = authority.server()
    ServerTls(server.cert, server.key).check()
    ServerTls(server.cert, server.key, authority.pair.cert).check()


def test_a_chain_passes(authority: Authority, tmp_path: Path) -> None:
    server = authority.server()
    chain = tmp_path / "chain.crt"
    chain.write_bytes(server.cert.read_bytes() + authority.pair.cert.read_bytes())
    ServerTls(chain, server.key).check()


def test_a_missing_file_is_told(authority: Authority, tmp_path: Path) -> None:
    server, none = authority.server(), tmp_path / "none"
    for tls, what in (
        (ServerTls(none, server.key), "certificate"),
        (ServerTls(server.cert, none), "key"),
        (ServerTls(server.cert, server.key, none), "CA"),
    ):
        with pytest.raises(ServeError, match=f"cannot read the {what} .*none: No such file"):
            tls.check()


def test_what_is_no_pem_is_told(authority: Authority, tmp_path: Path) -> None:
    server, other = authority.server(), tmp_path / "other"
    other.write_bytes(b"\x30\x82\x01")
    for tls, what in (
        (ServerTls(other, server.key), "certificate"),
        (ServerTls(server.cert, server.cert), "key"),
        (ServerTls(server.cert, server.key, server.key), "CA"),
    ):
        with pytest.raises(ServeError, match=f"expected a {what} in PEM in .*convert it"):
            tls.check()
    other.write_text("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n")
    with pytest.raises(ServeError, match="expected a certificate and its key without a passphrase"):
        ServerTls(other, server.key).check()
    with pytest.raises(ServeError, match="expected CA certificates in"):
        ServerTls(server.cert, server.key, other).check()


def test_the_key_of_another_certificate_is_told(authority: Authority) -> None:
    with pytest.raises(ServeError, match=r"belongs to another certificate than .*server\.crt"):
        ServerTls(authority.server().cert, authority.client().key).check()


def test_a_key_with_a_passphrase_is_told_and_nobody_asked(
    authority: Authority, tmp_path: Path
) -> None:
    server, locked = authority.server(), tmp_path / "locked.key"
    key = serialization.load_pem_private_key(server.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ServeError, match="its key without a passphrase"):
        ServerTls(server.cert, locked).check()


def test_what_has_expired_is_told(authority: Authority, tmp_path: Path) -> None:
    old, server = authority.server("old", expired=True), authority.server()
    with pytest.raises(ServeError, match=r"refuse the certificate .*old\.crt: .*expired: renew it"):
        ServerTls(old.cert, old.key).check()
    roots = Authority(tmp_path, "old-ca", expired=True).pair.cert
    with pytest.raises(ServeError, match=r"every CA certificate in .*old-ca\.crt has expired"):
        ServerTls(server.cert, server.key, roots).check()


def test_a_client_certificate_does_for_no_server(authority: Authority) -> None:
    client = authority.client()
    with pytest.raises(ServeError, match="clients would refuse the certificate"):
        ServerTls(client.cert, client.key).check()


def test_roots_that_may_not_sign_are_told(authority: Authority) -> None:
    server = authority.server()
    with pytest.raises(ServeError, match="those there may not sign others"):
        ServerTls(server.cert, server.key, server.cert).check()
