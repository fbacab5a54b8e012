"""`epoch gc`: one garbage collection, on the store itself, beside running servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from epoch.cli.params import data_dir_option, log_level_option, min_age_option
from epoch.cli.progress import Counter
from epoch.config import GarbageSettings, Settings, SettingsError, StoreSettings

if TYPE_CHECKING:
    from epoch.garbage.report import Report


_EPILOG: Final = """
\b
Examples:
  epoch gc --dry-run
  epoch gc --min-age 7d
  EPOCH_DATA_DIR=/var/lib/epoch epoch gc

It works on the bucket or the directory itself, named in the same way as for `epoch serve`, and may
run while servers do. The summary goes to stdout, all else to stderr. Ctrl-C: it ends in order.
"""


@click.command(epilog=_EPILOG)
@data_dir_option("Where the registry stores when no bucket is named.")
@min_age_option("--min-age", envvar="EPOCH_GC_MIN_AGE")
@log_level_option()
@click.option("--dry-run", is_flag=True, help="Remove nothing, only tell what would be.")
def gc(dry_run: bool, **options: Any) -> None:
    """Remove blobs that no manifest names, and uploads that nobody goes on with."""
    from epoch.environment import load, s3_settings
    from epoch.process.maintenance import collect
    from epoch.store.base import StoreError

    counter = Counter()
    try:
        settings = Settings(
            store=StoreSettings(data_dir=options["data_dir"], s3=s3_settings(load(os.environ))),
            garbage=GarbageSettings(min_age=options["min_age"]),
            log_level=options["log_level"],
        )
        report = collect(settings, counter.tell, dry_run=dry_run)
    except (SettingsError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        counter.clear()
    if report is None:
        raise click.ClickException("interrupted; nothing that is still referenced was removed")
    _print(report, dry_run=dry_run)


def _print(report: Report, *, dry_run: bool) -> None:
    verb = "would be removed" if dry_run else "removed"
    size = report.removed_bytes
    click.echo(f"manifests: {report.manifests} read")
    click.echo(f"blobs: {report.blobs} in all, {report.blob_bytes} bytes")
    click.echo(f"blobs {verb}: {report.removed_blobs}, {size} bytes")
    click.echo(f"upload sessions {verb}: {report.sessions}")
    click.echo(f"multipart uploads {verb}: {report.multiparts}")
    click.echo(f"index entries {verb}: {report.entries}")
