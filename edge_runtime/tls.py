"""The client's side of TLS: whom it trusts, and who it is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from splitdeploy.profiles.errors import UsageError


@dataclass(frozen=True)
class ClientTls:
    """Files in PEM that a channel is secured with.

    Attributes:
        ca: Certificates of the authorities that may vouch for the server; None takes those that
            gRPC brings.
        cert: The client's own certificate (and what leads from it to its authority), where the
            server asks for one.
        key: The private key of ``cert``, not encrypted.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> Any:
        """For a channel.

        The files are tried here: gRPC would tell of a wrong one only as a connection that fails.

        Returns:
            ``grpc.ChannelCredentials``.

        Raises:
            UsageError: A file is missing or is not what it should be, the key is encrypted or of
                another certificate, or one of the two was given without the other.
        """
        if (self.cert is None) != (self.key is None):
            given, lacking = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise UsageError(
                f"expected a client's certificate and its key together, got the {given} alone: "
                f"give the {lacking} too"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca, cert, key = (_read(path) for path in (self.ca, self.cert, self.key))
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise UsageError(
                    f"expected certificates of authorities in PEM in {self.ca}, got something else "
                    f"({error.reason})"
                ) from error
        if self.cert is not None and self.key is not None:
            try:
                # Without the password, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.cert, self.key, password="")
            except (ssl.SSLError, ValueError) as error:
                why = getattr(error, "reason", None) or error
                raise UsageError(
                    f"expected a certificate in {self.cert} and its own unencrypted key in "
                    f"{self.key}, both in PEM, got something else ({why})"
                ) from error
        return grpc.ssl_channel_credentials(ca, key, cert)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"expected a file in PEM at {path}, it cannot be read: {error.strerror or error}"
        ) from error
