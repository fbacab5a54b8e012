"""The options of `epoch serve` about access control and TLS. Paths only: never a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from epoch.cli.params import option
from epoch.config import AuthSettings, SettingsError, TlsSettings

REGISTRY_TOKEN: Final = "EPOCH_REGISTRY_TOKEN"  # noqa: S105 - the name of a variable


def _file(name: str, help_text: str) -> Callable[[Any], Any]:
    return option(
        name, type=click.Path(path_type=Path), default=None, metavar="FILE", help=help_text
    )


def _text(name: str, metavar: str, help_text: str) -> Callable[[Any], Any]:
    return option(name, default=None, metavar=metavar, help=help_text)


_OPTIONS: Final = (
    _file("--htpasswd", "Users and their bcrypt passwords; read again when it changes."),
    _file("--access", "Rules in TOML: who may pull, push, delete where; read when it changes."),
    _file("--token-key", "32 bytes or more to sign tokens with; the same on all replicas."),
    _text("--token-issuer", "ISS", "Take tokens of another service: their iss."),
    _text("--token-audience", "AUD", "Their aud, and the service that clients ask for."),
    _file(
        "--token-jwks",
        "Its public keys: a JSON Web Key Set or PEM; read when it changes.",
    ),
    _text("--token-realm", "URL", "Where clients get its tokens."),
    _text("--public-url", "URL", "How clients reach this registry; default: as Host says."),
    _file("--tls-cert", "Speak TLS: the certificate chain in PEM; read again on SIGHUP."),
    _file("--tls-key", "Its private key in PEM, not encrypted."),
    _file("--tls-client-ca", "Demand client certificates, signed by one of these (PEM)."),
)


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def auth_settings(options: Mapping[str, Any], variables: Mapping[str, str]) -> AuthSettings:
    """Access control; `SettingsError` where the options do not fit each other.

    `variables`: completed from the env file, from which the Go server takes its token too.
    """
    token = variables.get(REGISTRY_TOKEN, "")
    if token and not token.strip():
        raise SettingsError(f"{REGISTRY_TOKEN} is blank: unset it, or set a token")
    return AuthSettings(
        registry_token=token.strip(),
        htpasswd=options["htpasswd"],
        access=options["access"],
        token_key=options["token_key"],
        token_issuer=options["token_issuer"] or "",
        token_audience=options["token_audience"] or "",
        token_jwks=options["token_jwks"],
        token_realm=options["token_realm"] or "",
        public_url=(options["public_url"] or "").strip().removesuffix("/"),
    )


def tls_settings(options: Mapping[str, Any]) -> TlsSettings | None:
    """TLS, or None for plain HTTP; `SettingsError` where one of the files is missing."""
    cert, key, client_ca = options["tls_cert"], options["tls_key"], options["tls_client_ca"]
    if cert and key:
        return TlsSettings(cert, key, client_ca)
    if cert or key or client_ca:
        raise SettingsError(
            "TLS needs --tls-cert and --tls-key: set both, or none of the --tls flags"
        )
    return None
