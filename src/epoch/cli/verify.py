"""`epoch verify`: reads everything back and compares it with its digest, beside running servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from epoch import layout
from epoch.cli.params import data_dir_option, log_level_option
from epoch.cli.progress import Counter
from epoch.config import Settings, SettingsError, StoreSettings

if TYPE_CHECKING:
    from epoch.registry.verify import Damage, Verified


_EPILOG: Final = """
\b
Examples:
  epoch verify
  epoch verify --parallel 8 --after blobs/sha256/3f
  epoch verify --remove

It works on the bucket or the directory itself, named in the same way as for `epoch serve`, and may
run while servers do. A line on stdout for each damaged object, and a summary; all else on stderr.
Exit code 0: all is well; 1: something is damaged, or it did not come to its end, and then the last
line says how to go on.
"""


@click.command(epilog=_EPILOG)
@data_dir_option("Where the registry stores when no bucket is named.")
@log_level_option()
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    metavar="N",
    help="Objects that are read at once.",
)
@click.option("--after", default="", metavar="KEY", help="Go on after this key.")
@click.option(
    "--remove",
    is_flag=True,
    help="Delete damaged blobs, so that the next push stores them again.",
)
def verify(parallel: int, after: str, remove: bool, **options: Any) -> None:
    """Read all blobs and manifests back, and report those that are damaged."""
    from epoch.environment import load, s3_settings
    from epoch.process.maintenance import verify as run
    from epoch.store.base import StoreError

    if after and not after.startswith((layout.BLOBS, layout.MANIFESTS)):
        raise click.BadParameter("KEY is one that a run named: blobs/... or manifests/...")
    counter = Counter()

    def report(damage: Damage) -> None:
        counter.clear()
        _print(damage)

    try:
        settings = Settings(
            store=StoreSettings(data_dir=options["data_dir"], s3=s3_settings(load(os.environ))),
            log_level=options["log_level"],
        )
        done = run(settings, counter.tell, report, after=after, parallel=parallel, remove=remove)
    except (SettingsError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        counter.clear()
    _summarize(done)
    if done.failure:
        hint = f"; go on with --after {done.last}" if done.last else ""
        raise click.ClickException(f"{done.failure}{hint}")
    if done.damaged:
        raise click.exceptions.Exit(1)


def _print(damage: Damage) -> None:
    end = " removed" if damage.removed else ""
    click.echo(
        f"damaged: {damage.key} expected {damage.expected} found {damage.found} "
        f"size {damage.size}{end}"
    )


def _summarize(done: Verified) -> None:
    click.echo(f"blobs: {done.blobs} read, {done.blob_bytes} bytes")
    click.echo(f"manifests: {done.manifests} read")
    click.echo(f"damaged: {done.damaged}, of these removed: {done.removed}")
