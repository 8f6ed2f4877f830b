"""TLS of the data port: the context, the certificates read anew without a restart, and whom a client's names."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError

__all__ = ["Tls", "TlsOptions", "certificate_identity"]

log = logging.getLogger(__name__)

File = Annotated[str, msgspec.Meta(min_length=1)]

# What TLS 1.2 may use: forward secrecy and authenticated encryption, as HTTP/2 wants it (RFC 9113, 9.2.2). TLS 1.3
# has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# What is offered after TLS, the better first.
ALPN = ["h2", "http/1.1"]
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsOptions(Config, frozen=True, kw_only=True):
    """TLS of the data port. Files are PEM; they are read again when they change, and on SIGHUP.

    With `client_ca` clients show a certificate that one of these authorities signed: with `client_auth` "require"
    all of them, with "request" those that have one.
    """

    cert: File
    key: File
    client_ca: File | None = None
    client_auth: Literal["require", "request"] = "require"
    min_version: Literal["1.2", "1.3"] = "1.2"

    @property
    def files(self) -> tuple[str, ...]:
        """What is watched for changes."""
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)


class Tls:
    """Gives each new handshake the files as they were read last. Sessions of those before are not taken up again."""

    def __init__(self, options: TlsOptions) -> None:
        """Raises ConfigError for files that cannot be read or do not belong together."""
        self._options = options
        self._current = self._read()

    def reload(self) -> None:
        """Use the files as they are now for new handshakes. Raises ConfigError; the old ones stay in use then."""
        self._current = self._read()

    def newest(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._current

    def _read(self) -> ssl.SSLContext:
        options = self._options
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[options.min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(ALPN)
        try:
            context.load_cert_chain(options.cert, options.key, password=_no_password)
        except (OSError, ValueError) as error:
            what = error if _is_file_error(error) else f"not a PEM certificate and its unencrypted key: {error}"
            raise ConfigError(f"tls.cert {options.cert}, tls.key {options.key}: {what}") from None
        if options.client_ca is not None:
            try:
                context.load_verify_locations(options.client_ca)
            except (OSError, ValueError) as error:
                what = error if _is_file_error(error) else f"not PEM certificates: {error}"
                raise ConfigError(f"tls.client_ca {options.client_ca}: {what}") from None
            context.verify_mode = ssl.CERT_REQUIRED if options.client_auth == "require" else ssl.CERT_OPTIONAL
            # A session that is taken up again shows no certificate, though it may have expired since. (TLS 1.2 has
            # sessions without tickets too, which cannot be turned off from here; they last five minutes.)
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context


def certificate_identity(certificate: Mapping[str, Any]) -> str:
    """Whom a verified client certificate names, as `getpeercert` gives it: its first URI (SPIFFE), else its CN.

    Empty if it names neither.
    """
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI":
            return str(value)
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def _no_password() -> str:
    # Else OpenSSL would ask on the terminal, and the server would wait for an answer.
    raise ValueError("the key is encrypted")


def _is_file_error(error: Exception) -> bool:
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
