"""Every setting with its default and its unit: frozen, nested, checked when it is built.

Sizes are in bytes and times in seconds. What can be set from outside, and how, is written in
`epoch.cli.serve` (flags and variables) and `epoch.environment` (the S3 variables);
`docs/settings.md` is the table for people.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

MAX_PARTS: Final = 10_000
"""Parts of one multipart upload (Amazon S3, "Multipart upload limits")."""

MIN_PART_SIZE: Final = 5 * MIB
MAX_PART_SIZE: Final = 5 * GIB
"""Bytes of a part that is not the last one (Amazon S3, "Multipart upload limits")."""

MIN_TOKEN_KEY: Final = 32
"""Bytes of a key that signs tokens (RFC 7518, section 3.2: as many as the digest has)."""

_URL: Final = re.compile(
    r"https?://[A-Za-z0-9.\-_~:\[\]]+(?:/[A-Za-z0-9.\-_~/%:@&=+,]*)?", re.ASCII
)

_ORIGIN: Final = re.compile(r"\*|https?://[a-z0-9.\-_\[\]:]+", re.ASCII)
"""As browsers write it: in lower case."""

MIN_GARBAGE_AGE: Final = 3600.0
"""Seconds below which nothing is garbage; `epoch.garbage.pins` says what it has to hold."""

MAX_STORE_PATIENCE: Final = 600.0
"""Seconds."""

Network = IPv4Network | IPv6Network

LOG_LEVELS: Final = ("debug", "info", "warn", "error")


class SettingsError(Exception):
    """A setting is missing or wrong. The text is one line that says what to do, without secrets."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where the bucket is, and who we are there."""

    endpoint: str
    """`host` or `host:port`, without scheme and path."""

    access_key: str
    """The id of the key; not secret."""

    secret_key: str = field(repr=False)
    """Empty: requests go unsigned (a bucket open to anonymous writers)."""

    bucket: str
    """Must exist; we never create one."""

    region: str = "us-east-1"
    """Part of every signature. Stores other than AWS mostly take any."""

    secure: bool = True
    """Whether to speak TLS."""

    prefix: str = "epoch/"
    """Put before every key as it is: no slash is added or removed."""

    @property
    def url(self) -> str:
        """The endpoint as a URL, without a path."""
        return f"{'https' if self.secure else 'http'}://{self.endpoint}"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the objects lie: in the bucket where there is one, else in the directory."""

    data_dir: Path = Path("epoch-data")
    """The directory store's root; made when missing. Not touched when `s3` is set."""

    create: bool = True
    """Make `data_dir` when missing. False for a worker that takes the place of another one: where
    the directory is missing then, its disk is not mounted."""

    s3: S3Settings | None = None
    """The bucket, or None for the directory store."""

    redirect: bool = False
    """Answer GETs of blobs with 307 to a presigned URL, where the store has such."""

    patience: float = 120.0
    """Seconds for which a call to the bucket is repeated after its first failure that may pass."""

    def __post_init__(self) -> None:
        # Garbage collection counts on a request's end within `epoch.garbage.pins.LONGEST`.
        _require(
            0 <= self.patience <= MAX_STORE_PATIENCE,
            f"a store patience of {self.patience:g} s is out of range: choose 0s to 10m",
        )


def spare_cores(processes: int) -> int:
    """How many cores each of so many processes has beside one for its event loop and one for the
    kernel's network and whatever else runs: a thread that has to share one only costs."""
    # Not os.cpu_count(): taskset and containers leave a process fewer.
    everywhere = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if everywhere else os.cpu_count() or 1
    return max(0, cores // processes - 2)


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """How a push goes from the socket to the store."""

    part_size: int = 16 * MIB
    """Bytes of a part, and of its buffer. More is used only for a blob whose announced length
    would otherwise need more than `MAX_PARTS` parts."""

    budget: int = 256 * MIB
    """Bytes of part buffers, lent and kept, in the whole process. When all are lent, reading
    pauses, and goes on when it is an upload's turn."""

    parts_in_flight: int = 4
    """Parts of one upload that are on their way to the store at the same time."""

    receive_window: int = MIB
    """The most bytes that one receive from a socket takes. Bounds how long other connections wait
    while one receive is copied and hashed."""

    hash_threads: int = 0
    """Threads that hash beside the event loop: no more than there are cores for them."""

    max_blob: int = 5 * TIB
    """Bytes of a blob, beyond which a push is refused: the largest object of most stores. A blob
    of unknown length is bound to `MAX_PARTS * part_size` before that."""

    def __post_init__(self) -> None:
        _require(
            MIN_PART_SIZE <= self.part_size <= MAX_PART_SIZE,
            f"part size {self.part_size} is out of range: choose 5MiB to 5GiB, as S3 does",
        )
        # The pool lends powers of two.
        needed = 1 << (self.part_size - 1).bit_length()
        _require(
            self.budget >= needed,
            f"buffer budget {self.budget} holds not even one part of {self.part_size} bytes: "
            f"raise it to at least {needed}, or lower the part size",
        )
        _require(self.parts_in_flight >= 1, "parts in flight must be at least 1")
        _require(
            4 * KIB <= self.receive_window <= self.part_size,
            f"receive window {self.receive_window} is out of range: choose 4KiB to the part size",
        )
        _require(self.max_blob >= 1, "max blob must be at least 1 byte")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The listener, and what it takes from a client."""

    host: str = ""
    """The address or name to listen on; empty: all interfaces."""

    port: int = 8080
    """TCP port; 0: any free one, told in the ready line."""

    max_head: int = 32 * KIB
    """Bytes of a request line and its header fields; more is answered 431."""

    max_url: int = 8 * KIB
    """Bytes of a request target; more is answered 414."""

    max_headers: int = 100
    """Header fields of a request; more is answered 431."""

    max_manifest: int = 4 * MIB
    """Bytes of a manifest; more is answered 413 (OCI distribution-spec, "Pushing Manifests":
    registries should take at least 4 MiB)."""

    body_budget: int = 64 * MIB
    """Bytes of manifests and lists above 64 KiB that are held whole at the same time, in either
    direction. Requests wait for it up to 10 s, then are answered 503."""

    head_timeout: float = 10.0
    """Seconds from a request's first byte to the end of its head, however its bytes drip in."""

    idle_timeout: float = 75.0
    """Seconds that a connection may stay open between requests. Above the 60 s that common
    proxies keep theirs, so that they close first."""

    body_idle_timeout: float = 60.0
    """Seconds without a byte of a body, in either direction, while we wait for the client."""

    min_rate: int = 256
    """Bytes per second that a body must reach, averaged over the time we wait for the client: a
    slow honest push lives, a drip does not."""

    shutdown_grace: float = 30.0
    """Seconds that requests under way have after SIGTERM before they are cut."""

    cors_origins: tuple[str, ...] = ()
    """Origins (`https://ui.example.com`) whose pages may use the registry from a browser, or `*`
    for all; none: browsers keep them from it."""

    trusted_proxies: tuple[Network, ...] = ()
    """Peers that are believed what they say about a client in X-Forwarded-*; none: nobody is."""

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, f"port {self.port} is out of range: choose 0 to 65535")
        _require(self.shutdown_grace >= 0, "shutdown grace must not be negative")
        for origin in self.cors_origins:
            _require(
                _ORIGIN.fullmatch(origin) is not None,
                f"{origin!r} is not an origin: write https://ui.example.com, with neither a path "
                "nor a slash at the end, or *",
            )
        _require(
            self.body_budget >= 64 * MIB,
            f"body budget {self.body_budget} is too low: choose 64MiB or more, so that every "
            "manifest fits",
        )


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What manifests are accepted."""

    sparse_indexes: bool = False
    """Accept an index some of whose manifests are not here: a mirror of a few platforms. Pulls of
    the others then fail."""


@dataclass(frozen=True, slots=True)
class GarbageSettings:
    """What garbage collection removes, and when."""

    min_age: float = 24 * 3600.0
    """Seconds that a blob must have lain unreferenced, or an upload untouched, before it goes."""

    interval: float = 0.0
    """Seconds between collections of a running server; 0: none. Off by default: a bucket may have
    other writers, and a first start must not delete anything."""

    def __post_init__(self) -> None:
        _require(
            self.min_age >= MIN_GARBAGE_AGE,
            f"the least age of garbage, {self.min_age:g} s, is too low: pushes under way could be "
            "hit; choose 1h or more",
        )
        _require(
            self.interval == 0 or self.interval >= 60,
            f"a garbage collection every {self.interval:g} s is too often: choose 1m or more, or "
            "0s for none",
        )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The server's certificate; without these settings it speaks plain HTTP."""

    cert: Path
    """PEM: the certificate, then those between it and the root."""

    key: Path
    """PEM: its private key, not encrypted."""

    client_ca: Path | None = None
    """PEM: who signs the certificates that clients must then show."""


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Who may do what. With none of these everybody may do everything."""

    registry_token: str = field(default="", repr=False)
    """Whoever sends it may do everything."""

    htpasswd: Path | None = None
    """Users and their passwords, bcrypt only."""

    access: Path | None = None
    """The rules, in TOML: which users may do what in which repositories."""

    token_key: Path | None = None
    """A file of at least `MIN_TOKEN_KEY` secret bytes: what our own tokens are signed with. Equal
    on all replicas."""

    token_issuer: str = ""
    """The `iss` of the tokens that somebody else's token service signs; empty: none does."""

    token_audience: str = ""
    """The `aud` of its tokens; the `service` that clients are told to ask it for."""

    token_jwks: Path | None = None
    """Its public keys: a JSON Web Key Set, or PEM with one key or certificate."""

    token_realm: str = ""
    """The URL at which clients get its tokens."""

    public_url: str = ""
    """The URL at which clients reach us, for the realm of our own tokens; empty: as they say in
    Host."""

    def __post_init__(self) -> None:
        foreign = (self.token_issuer, self.token_audience, self.token_jwks, self.token_realm)
        _require(
            all(foreign) or not any(foreign),
            "--token-issuer, --token-audience, --token-jwks and --token-realm go together: set all "
            "four for tokens that another service issues, or none",
        )
        _require(
            not (self.token_issuer and self.token_key),
            "--token-key signs our own tokens, and --token-issuer leaves them to another service: "
            "drop one of the two",
        )
        _require(
            self.token_key is None or bool(self.htpasswd or self.registry_token),
            "--token-key is of no use without users: set --htpasswd or EPOCH_REGISTRY_TOKEN too",
        )
        for name, url in (("--public-url", self.public_url), ("--token-realm", self.token_realm)):
            _require(
                not url or _URL.fullmatch(url) is not None,
                f"{name} is not a URL: write https://registry.example.com",
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    http: HttpSettings = field(default_factory=HttpSettings)
    tls: TlsSettings | None = None
    auth: AuthSettings = field(default_factory=AuthSettings)
    upload: UploadSettings = field(default_factory=UploadSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    garbage: GarbageSettings = field(default_factory=GarbageSettings)
    workers: int = 1
    """Server processes that share the port."""

    log_level: str = "info"
    """The least severe application line that is written, one of `LOG_LEVELS`. Access lines are
    written at info."""

    def __post_init__(self) -> None:
        _require(
            self.log_level in LOG_LEVELS,
            f"log level {self.log_level!r} is unknown: choose one of {', '.join(LOG_LEVELS)}",
        )
