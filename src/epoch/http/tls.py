"""TLS for the listener: its context, and new certificates without a restart.

The listener keeps one context for ever. Each handshake is handed on to the one that was made last,
so that connections that are open go on, and a certificate is never half replaced.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

from epoch.config import SettingsError, TlsSettings
from epoch.http.response import PLAIN_ON_TLS_PORT

HANDSHAKE_SECONDS: Final = 10.0
SHUTDOWN_SECONDS: Final = 60.0
"""How long a client has to answer our close_notify, then it is cut. It answers only when it has
read all that is still queued for it."""


class Records(ssl.SSLObject):
    """Reads and writes records without a detour through Python, which would be taken three times
    for every 16 KiB. uvloop asks for the three once in a connection.

    Answers plain HTTP in its own tongue."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    _is_plain = False

    def do_handshake(self) -> None:
        """See `ssl.SSLObject.do_handshake`."""
        if not self._is_plain:
            try:
                super().do_handshake()
            except ssl.SSLError as error:
                if error.reason != "HTTP_REQUEST":
                    raise
                self._is_plain = True
                self.outgoing.write(PLAIN_ON_TLS_PORT)
            else:
                return
        # An error would drop what is to be sent. So whatever else comes is dropped instead, until
        # the client has gone or the time for a handshake is over.
        self.incoming.read()
        raise ssl.SSLWantReadError

    @property
    def read(self):  # type: ignore[no-untyped-def]
        """Decrypt; see `ssl.SSLObject.read`."""
        return self._sslobj.read  # type: ignore[attr-defined]

    @property
    def write(self):  # type: ignore[no-untyped-def]
        """Encrypt; see `ssl.SSLObject.write`."""
        return self._sslobj.write  # type: ignore[attr-defined]

    @property
    def pending(self):  # type: ignore[no-untyped-def]
        """See `ssl.SSLObject.pending`."""
        return self._sslobj.pending  # type: ignore[attr-defined]


class _Context(ssl.SSLContext):
    """Shows `Records` the bytes on the wire."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **more: Any
    ) -> Records:
        made = super().wrap_bio(incoming, outgoing, *arguments, **more)
        assert isinstance(made, Records)
        made.incoming, made.outgoing = incoming, outgoing
        return made


class Tls:
    """The context to listen with. `SettingsError`: a file is missing or does not fit."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._newest = _context(settings)
        self.context: Final = _context(settings)
        self.context.sni_callback = self._hand_on

    def reload(self) -> None:
        """Read the files again. `SettingsError`: they do not fit; then all stays as it was."""
        self._newest = _context(self._settings)

    def _hand_on(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        # Called for every handshake, also where the client names no host.
        connection.context = self._newest


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = Records
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # One connection is one HTTP/1.1 connection; clients that offer h2 fall back.
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would not show its certificate again: not to the authorities of today.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    _load_certificate(context, settings.cert, settings.key)
    if settings.client_ca is not None:
        _check_readable(settings.client_ca)
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError:
            raise SettingsError(f"{settings.client_ca} holds no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    _check_readable(cert)
    _check_readable(key)

    def no_password() -> str:
        raise SettingsError(
            f"the key {key} is encrypted: decrypt it with openssl pkey -in {key} -out FILE"
        )

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"the key {key} is not that of the certificate {cert}") from None
        raise SettingsError(
            f"{cert} and {key} are no certificate and key in PEM ({error.reason or error})"
        ) from None


def _check_readable(path: Path) -> None:
    """OpenSSL's own errors do not tell which file."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
