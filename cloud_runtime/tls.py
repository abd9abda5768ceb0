"""A server's certificates, checked before it starts: gRPC opens them when a client comes."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.profiles.errors import ServeError

_HANDSHAKE_ROUNDS = 10


@dataclass(frozen=True)
class ServerTls:
    """Where a server's certificates lie.

    Attributes:
        cert: Its certificate, and any between it and the root, in PEM.
        key: The certificate's private key, in PEM, without a passphrase.
        client_ca: The roots that a client's certificate must come from; None asks clients for none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Refuse files that would fail later, when the first client comes.

        Raises:
            ServeError: A file is missing or not PEM, the key is another certificate's or needs a
                passphrase, or the certificate or every root has expired.
        """
        for what, path in (("certificate", self.cert), ("key", self.key), ("CA", self.client_ca)):
            if path is not None:
                _check_pem(what, path)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An empty passphrase: without one, OpenSSL would ask at the terminal.
            server.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError as error:
            raise ServeError(self._mismatch(error)) from error
        _check_by_handshake(self.cert, server)
        if self.client_ca is not None:
            _check_roots(self.client_ca)

    def _mismatch(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"the key {self.key} belongs to another certificate than {self.cert}: "
                "give the key that the certificate was made with"
            )
        return (
            f"expected a certificate and its key without a passphrase in {self.cert} and "
            f"{self.key}: OpenSSL says {_reason(error)}"
        )


def _check_pem(what: str, path: Path) -> None:
    """Told apart here because OpenSSL's own message names neither the file nor what is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ServeError(f"cannot read the {what} {path}: {error.strerror}") from error
    wanted = b"PRIVATE KEY-----" if what == "key" else b"-----BEGIN CERTIFICATE-----"
    if b"-----BEGIN " not in text or wanted not in text:
        raise ServeError(
            f"expected a {what} in PEM in {path}, found no {wanted.decode().strip('-')} block: "
            "convert it with openssl, or name another file"
        )


def _check_by_handshake(cert: Path, server: ssl.SSLContext) -> None:
    """Have a client in this process trust just this certificate: it refuses an expired one."""
    # The ssl module offers no other public way to the dates of a certificate that is no CA.
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cert)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(to_client, to_server),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(_HANDSHAKE_ROUNDS):
            ends = [end for end in ends if not _shaken(end)]
            if not ends:
                return
    except ssl.SSLCertVerificationError as error:
        raise ServeError(
            f"clients would refuse the certificate {cert}: {error.verify_message}: renew it"
        ) from error
    except ssl.SSLError as error:
        raise ServeError(f"cannot serve TLS with {cert}: {_reason(error)}") from error


def _shaken(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _check_roots(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ServeError(f"expected CA certificates in {path}: {_reason(error)}") from error
    roots = context.get_ca_certs()
    if not roots:
        raise ServeError(f"expected CA certificates in {path}, those there may not sign others")
    ends = [ssl.cert_time_to_seconds(str(root["notAfter"])) for root in roots]
    if max(ends) < time.time():
        raise ServeError(f"every CA certificate in {path} has expired: renew them")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
