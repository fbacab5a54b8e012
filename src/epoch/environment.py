"""The S3 variables, read as the Go server reads them, so that its deployments go on as they are.

Sources: `objectstore/config.go` of github.com/cocoonstack/epoch, and minio-go for what an endpoint
may look like. Where we differ, it is written at the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from epoch.config import S3Settings, SettingsError

ENV_FILE: Final = "EPOCH_S3_ENV_FILE"
REQUIRED: Final = ("EPOCH_S3_ENDPOINT", "EPOCH_S3_ACCESS_KEY", "EPOCH_S3_BUCKET")
S3_VARIABLES: Final = (
    *REQUIRED,
    "EPOCH_S3_SECRET_KEY",
    "EPOCH_S3_REGION",
    "EPOCH_S3_SECURE",
    "EPOCH_S3_PREFIX",
)

_UNREAD: Final = re.compile(r"AWS_(?:ACCESS_KEY_ID|PROFILE|ENDPOINT_URL\w*|S3_\w+)", re.ASCII)
"""Variables by which other programs find a bucket. Epoch must not: a server that stores in a
directory would store in whatever bucket its user happens to work with."""

_SIGN_ON: Final = re.compile(r"(?:SSO|GOOGLE_OAUTH)_\w+", re.ASCII)
"""Variables by which the Go server signs people in to its dashboard."""

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

_REGION_IN_HOST = re.compile(
    r"s3(?:-fips)?(?:\.dualstack)?[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9]+)\.", re.ASCII
)
"""AWS: `s3.<region>.amazonaws.com`, old `s3-<region>`, `s3-fips.dualstack.<region>`
(docs.aws.amazon.com/general/latest/gr/s3.html). Others that check the region, such as Backblaze
and Wasabi, name it in the same place."""


def load(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without empty values, completed from the env file where one is to be read.

    It is read only where endpoint, access key or bucket is unset. Unlike with the Go server, no
    key of the file beats the environment. `SettingsError`: the file cannot be read.
    """
    variables = {key: value for key, value in environ.items() if value}
    if all(key in variables for key in REQUIRED):
        return variables
    return {**_read_env_file(variables), **variables}


def s3_settings(variables: Mapping[str, str]) -> S3Settings | None:
    """The bucket that `variables` (from `load`) name; None where no S3 variable is there at all.

    `SettingsError`: some are there but a required one is missing, or one is malformed.
    """
    given = [key for key in S3_VARIABLES if variables.get(key)]
    if not given:
        return None
    missing = [key for key in REQUIRED if not variables.get(key)]
    if missing:
        raise SettingsError(
            f"{given[0]} is set but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing: set what is missing, or unset all EPOCH_S3_* to store in a directory"
        )
    endpoint, secure = _endpoint(variables["EPOCH_S3_ENDPOINT"], variables.get("EPOCH_S3_SECURE"))
    return S3Settings(
        endpoint=endpoint,
        access_key=variables["EPOCH_S3_ACCESS_KEY"],
        secret_key=variables.get("EPOCH_S3_SECRET_KEY", ""),
        bucket=variables["EPOCH_S3_BUCKET"],
        region=variables.get("EPOCH_S3_REGION") or region_of(endpoint),
        secure=secure,
        prefix=variables.get("EPOCH_S3_PREFIX") or "epoch/",
    )


def unread(environ: Mapping[str, str]) -> list[str]:
    """The names of the variables that look as if a bucket was meant, and are not read."""
    return sorted(key for key, value in environ.items() if value and _UNREAD.fullmatch(key))


def of_sign_on(variables: Mapping[str, str]) -> list[str]:
    """The names of the variables about single sign-on, of which we have none."""
    return sorted(key for key, value in variables.items() if value and _SIGN_ON.fullmatch(key))


def region_of(endpoint: str) -> str:
    """The region that a host name tells, else us-east-1.

    The Go server asks an unknown store for the bucket's location; stores that need another answer
    than us-east-1 say so in the error, and `EPOCH_S3_REGION` is there for them.
    """
    found = _REGION_IN_HOST.match(endpoint)
    return found["region"] if found else "us-east-1"


def _endpoint(raw: str, secure: str | None) -> tuple[str, bool]:
    """`host[:port]` and whether to speak TLS: `secure` beats the scheme, no scheme means TLS."""
    host, tls = raw.strip(), True
    if "://" in host:
        parts = urlsplit(host)
        # A user name and a path are dropped, as Go's url.Host does.
        host, tls = parts.netloc.rpartition("@")[2], parts.scheme == "https"
    if not _HOST.fullmatch(host):
        raise SettingsError(
            "EPOCH_S3_ENDPOINT is not an endpoint: give host, host:port or a URL such as "
            "https://s3.eu-central-1.amazonaws.com"
        )
    if secure is not None:
        if secure not in _TRUE | _FALSE:
            raise SettingsError(f"EPOCH_S3_SECURE is {secure!r}: give true or false")
        tls = secure in _TRUE
    return host, tls


def _read_env_file(variables: Mapping[str, str]) -> dict[str, str]:
    """The `KEY=VALUE` lines of the env file: trimmed, `#` lines skipped, nothing unquoted."""
    named = variables.get(ENV_FILE)
    path = Path(named or Path(variables.get("HOME", "/root"), ".config/epoch/s3.env"))
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        if named is None:
            return {}
        raise SettingsError(f"{ENV_FILE} names {path}, which does not exist") from None
    except OSError as error:
        # The Go server goes on without; we would then store in a directory, unnoticed.
        raise SettingsError(
            f"the S3 settings in {path} cannot be read ({error.strerror}): make the file readable, "
            f"or set {ENV_FILE}=/dev/null"
        ) from None
    lines = (line.strip().partition("=") for line in text.split("\n"))
    found = {
        key.strip(): value.strip()
        for key, equals, value in lines
        if equals and not key.startswith("#")
    }
    # In the file it has no effect on the Go server, whose buckets therefore have the default one.
    found.pop("EPOCH_S3_PREFIX", None)
    return {key: value for key, value in found.items() if value}
