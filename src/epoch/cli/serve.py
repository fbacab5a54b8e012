"""`epoch serve`: flags and variables become `Settings`, errors at start become one line."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from epoch.cli.access import access_options, auth_settings, tls_settings
from epoch.cli.params import (
    Address,
    Duration,
    Networks,
    Size,
    data_dir_option,
    format_duration,
    format_size,
    log_level_option,
    min_age_option,
    option,
)
from epoch.config import (
    GarbageSettings,
    HttpSettings,
    RegistrySettings,
    Settings,
    SettingsError,
    StoreSettings,
    spare_cores,
)
from epoch.config import UploadSettings as Upload
from epoch.process import signals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from epoch.process.supervisor_link import SupervisorLink

_HTTP: Final = HttpSettings()
_UPLOAD: Final = Upload()
_GARBAGE: Final = GarbageSettings()
_STORE: Final = StoreSettings()
_REGISTRY: Final = RegistrySettings()

_EPILOG: Final = """
\b
Examples:
  epoch serve
  epoch serve --addr 127.0.0.1:5000 --data-dir /var/lib/epoch
  EPOCH_S3_ENDPOINT=http://127.0.0.1:9000 EPOCH_S3_BUCKET=images \\
    EPOCH_S3_ACCESS_KEY=... EPOCH_S3_SECRET_KEY=... epoch serve --buffer-budget 1GiB

\b
The bucket is named by variables alone, so that no key shows in a process list:
  EPOCH_S3_ENDPOINT    host[:port] or URL; https unless the URL or EPOCH_S3_SECURE says not
  EPOCH_S3_BUCKET      must exist
  EPOCH_S3_ACCESS_KEY
  EPOCH_S3_SECRET_KEY  empty: requests go unsigned
  EPOCH_S3_REGION      default: the one in the host name, else us-east-1
  EPOCH_S3_SECURE      true or false
  EPOCH_S3_PREFIX      put before every key as it is; default: epoch/
  EPOCH_S3_ENV_FILE    KEY=VALUE lines for what is unset; default: ~/.config/epoch/s3.env

\b
So is the token that allows everything; EPOCH_S3_ENV_FILE may hold it:
  EPOCH_REGISTRY_TOKEN  without --htpasswd and --access, pulls stay open to all

Sizes are in bytes, or with a unit: 16MiB, 256M, 1GiB (powers of 1024). Logs go to stderr; the line
"ready addr=HOST:PORT" tells that requests are taken, and where. SIGTERM or Ctrl-C: requests under
way are finished, then the exit code is 0.
"""


@click.command(epilog=_EPILOG)
@option(
    "--addr",
    type=Address(),
    default=f"{_HTTP.host}:{_HTTP.port}",
    metavar="[HOST]:PORT",
    help="Where to listen; no host: all interfaces; port 0: any free one.",
)
@data_dir_option("Where to store when no bucket is named; made when missing.")
@option(
    "--redirect/--no-redirect",
    default=_STORE.redirect,
    help="Send GETs of blobs to the bucket with a presigned URL (307), so that clients must reach "
    "it, instead of streaming them.",
)
@option(
    "--store-patience",
    type=Duration(),
    default=format_duration(_STORE.patience),
    metavar="DURATION",
    help="How long a call to the bucket is repeated after it failed; pushes wait meanwhile.",
)
@option(
    "--part-size",
    type=Size(),
    default=format_size(_UPLOAD.part_size),
    metavar="SIZE",
    help="Size of a part of a multipart upload, 5MiB to 5GiB; more is used where a blob would "
    "need more than 10,000 parts.",
)
@option(
    "--buffer-budget",
    type=Size(),
    default=format_size(_UPLOAD.budget),
    metavar="SIZE",
    help="Memory for the parts of all pushes together; when it is lent out, pushes wait.",
)
@option(
    "--parts-in-flight",
    type=click.IntRange(min=1),
    default=_UPLOAD.parts_in_flight,
    metavar="N",
    help="Parts of one push that are sent to the store at the same time.",
)
@option(
    "--hash-threads",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Threads that hash beside the event loop; by default, one for each core to spare.",
)
@option(
    "--idle-timeout",
    type=click.FloatRange(min=1),
    default=_HTTP.idle_timeout,
    metavar="SECONDS",
    help="How long a connection may stay open between requests; keep it above your proxy's.",
)
@option(
    "--shutdown-grace",
    type=click.FloatRange(min=0),
    default=_HTTP.shutdown_grace,
    metavar="SECONDS",
    help="How long requests under way may take after SIGTERM before they are cut.",
)
@option(
    "--trusted-proxies",
    type=Networks(),
    default=None,
    metavar="NETWORKS",
    help="Believe X-Forwarded-For, -Proto and -Host from these peers: 127.0.0.1,10.0.0.0/8.",
)
@option(
    "--cors-origin",
    multiple=True,
    default=None,
    metavar="ORIGIN",
    help="Let pages of this origin, or of all (*), use the registry from a browser; repeat it for "
    "several.",
)
@option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Server processes that share the port; the buffer budget is divided among them.",
)
@option(
    "--sparse-indexes/--no-sparse-indexes",
    default=_REGISTRY.sparse_indexes,
    help="Accept an index some of whose manifests were not pushed, such as other platforms.",
)
@option(
    "--gc-interval",
    type=Duration(),
    default=format_duration(_GARBAGE.interval),
    metavar="DURATION",
    help="How often garbage is collected, by one of all servers over the store; 0s: never.",
)
@min_age_option("--gc-min-age")
@log_level_option("The least severe line that is logged; requests are logged at info.")
@access_options
@click.option("--dsn", hidden=True, help="The database of the Go server: not needed.")
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """Run the registry, on a bucket where EPOCH_S3_* names one, else on a directory."""
    from epoch.environment import load

    signals.hold()
    try:
        variables = load(os.environ)
        settings = _settings(options, variables)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    if settings.store.s3 and ctx.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE:
        raise click.ClickException(
            "--data-dir is given but EPOCH_S3_* names a bucket: drop one of the two "
            "(EPOCH_S3_ENV_FILE=/dev/null switches the settings file off)"
        )
    _warn_of_unused(settings, options, variables)
    ctx.exit(run(settings))


def _warn_of_unused(
    settings: Settings, options: Mapping[str, Any], variables: Mapping[str, str]
) -> None:
    """Say what of a deployment of the Go server has no effect here; names alone, no values."""
    from epoch import log
    from epoch.environment import of_sign_on

    log.configure(settings.log_level)
    if options["dsn"] is not None:
        log.warn("--dsn: not used; no database is needed, all is in the store")
    if names := of_sign_on(variables):
        log.warn(f"{', '.join(names)}: not used; see --htpasswd and --token-issuer")


def _settings(options: Mapping[str, Any], variables: Mapping[str, str]) -> Settings:
    """The settings that options and environment make; `SettingsError` where they do not fit."""
    from epoch.environment import s3_settings

    host, port = options["addr"]
    return Settings(
        http=HttpSettings(
            host=host,
            port=port,
            idle_timeout=options["idle_timeout"],
            shutdown_grace=options["shutdown_grace"],
            cors_origins=tuple(options["cors_origin"] or ()),
            trusted_proxies=options["trusted_proxies"] or (),
        ),
        tls=tls_settings(options),
        auth=auth_settings(options, variables),
        upload=Upload(
            part_size=options["part_size"],
            budget=options["buffer_budget"],
            parts_in_flight=options["parts_in_flight"],
            hash_threads=(
                spare_cores(options["workers"])
                if options["hash_threads"] is None
                else options["hash_threads"]
            ),
            receive_window=min(_UPLOAD.receive_window, options["part_size"]),
        ),
        store=StoreSettings(
            data_dir=options["data_dir"],
            s3=s3_settings(variables),
            redirect=options["redirect"],
            patience=options["store_patience"],
        ),
        registry=RegistrySettings(sparse_indexes=options["sparse_indexes"]),
        garbage=GarbageSettings(min_age=options["gc_min_age"], interval=options["gc_interval"]),
        workers=options["workers"],
        log_level=options["log_level"],
    )


def run(settings: Settings, parent: SupervisorLink | None = None) -> int:
    """Serve until told to stop; the exit code. What fails at start becomes a ClickException.

    `parent`: where this process is one of its workers.
    """
    from epoch.store.base import StoreError

    try:
        if settings.workers > 1 and parent is None:
            from epoch.process.supervisor import supervise

            return supervise(settings)
        from epoch.process.serving import run as serve_alone

        return serve_alone(settings, parent)
    except (SettingsError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        reason = _cannot_listen(error, settings.http)
        if reason is None:
            raise
        raise click.ClickException(reason) from None


def _cannot_listen(error: OSError, http: HttpSettings) -> str | None:
    """What to do about an error of bind(2), or None where it is none."""
    import socket

    if error.filename is not None:
        return None

    where = f"{http.host or 'all interfaces'}, port {http.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {http.port} is in use: stop what listens there "
            f"(ss -ltnp 'sport = :{http.port}' shows it), or choose another with --addr :PORT"
        )
    if error.errno == errno.EACCES:
        return f"not allowed to listen on {where}: ports below 1024 need root, choose another"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: no such address on this machine, see --addr"
    return None
