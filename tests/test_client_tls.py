"""The client's certificates, and a TLS handshake with the embedded server."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from split_bundles import arrays, check_right, make_bundle

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.tls import ClientTls
from splitdeploy.profiles.errors import CloudError, UsageError

x509 = pytest.importorskip("cryptography.x509")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._name = self._new_key(), self._named("authority")
        now = datetime.datetime.now(datetime.timezone.utc)
        cert = self._sign(self._name, self._key, now + datetime.timedelta(days=1), ca=True)
        self.ca = self._write("ca.pem", cert, self._key).cert

    def issue(self, name: str, days: int = 1) -> Pair:
        now = datetime.datetime.now(datetime.timezone.utc)
        key = self._new_key()
        cert = self._sign(self._named(name), key, now + datetime.timedelta(days=days), ca=False)
        return self._write(f"{name}.pem", cert, key)

    def _sign(self, name: object, key: object, ends: datetime.datetime, *, ca: bool) -> object:
        from cryptography.hazmat.primitives import hashes

        local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509
            .CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())  # type: ignore[attr-defined]
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - datetime.timedelta(days=2))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(local, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, cert: object, key: object) -> Pair:
        from cryptography.hazmat.primitives import serialization as how

        pair = Pair(self._folder / name, self._folder / f"key-{name}")
        pair.cert.write_bytes(cert.public_bytes(how.Encoding.PEM))  # type: ignore[attr-defined]
        pair.key.write_bytes(
            key.private_bytes(  # type: ignore[attr-defined]
                how.Encoding.PEM, how.PrivateFormat.PKCS8, how.NoEncryption()
            )
        )
        return pair

    @staticmethod
    def _new_key() -> object:
        from cryptography.hazmat.primitives.asymmetric import ec

        return ec.generate_private_key(ec.SECP256R1())

    @staticmethod
    def _named(name: str) -> object:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "plain")


@pytest.fixture(scope="module")
def cloud(folder: Path, authority: Authority) -> Iterator[str]:
    """Asks clients for a certificate."""
    own = authority.issue("server")
    tls = ServerTls(own.cert, own.key, authority.ca)
    with TailServer([read_bundle(folder, "cloud")], port=0, threads=1, tls=tls) as server:
        yield f"127.0.0.1:{server.port}"


def client(folder: Path, cloud: str, tls: ClientTls | None) -> SplitClient:
    return SplitClient(folder, cloud, tls=tls, threads=1, deadline_s=1.0)


def test_both_sides_show_who_they_are(folder: Path, cloud: str, authority: Authority) -> None:
    mine = authority.issue("client")
    x = arrays(1)[0]
    with client(folder, cloud, ClientTls(authority.ca, mine.cert, mine.key)) as split:
        check_right(split.infer(x, deadline_s=20.0).raise_if_refused().outputs, x)


def test_who_is_not_known_gets_no_answer(
    folder: Path, cloud: str, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    theirs, old = stranger.issue("client"), authority.issue("old", days=-1)
    for tls, why in (
        (None, ""),
        (ClientTls(authority.ca), ""),
        (ClientTls(authority.ca, theirs.cert, theirs.key), ""),
        (ClientTls(authority.ca, old.cert, old.key), ""),
        (ClientTls(stranger.ca, theirs.cert, theirs.key), "[Hh]andshake failed"),
    ):
        with pytest.raises(CloudError, match=f"at {cloud}, none answered within 1 s.*{why}"):
            client(folder, cloud, tls)


def test_files_that_will_not_do(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    for tls, said in (
        (ClientTls(ca=tmp_path / "none"), "expected a file in PEM at .*none, it cannot be read"),
        (ClientTls(ca=nonsense), "expected certificates of authorities in PEM in .*nonsense"),
        (ClientTls(cert=one.cert), "got the certificate alone: give the key too"),
        (ClientTls(key=one.key), "got the key alone: give the certificate too"),
        (ClientTls(cert=one.cert, key=other.key), r"its own unencrypted key in .*VALUES_MISMATCH"),
        (ClientTls(cert=nonsense, key=one.key), "expected a certificate in .*nonsense"),
    ):
        with pytest.raises(UsageError, match=said):
            tls.credentials()


def test_an_encrypted_key_is_told_and_not_asked_for(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as how

    one = authority.issue("one")
    key = how.load_pem_private_key(one.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            how.Encoding.PEM, how.PrivateFormat.PKCS8, how.BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(UsageError, match="its own unencrypted key"):
        ClientTls(cert=one.cert, key=locked).credentials()
