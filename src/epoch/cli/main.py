"""The `epoch` command: its group of subcommands, and nothing heavy."""

import click

from epoch import __version__
from epoch.cli.gc import gc
from epoch.cli.htpasswd import htpasswd
from epoch.cli.serve import serve
from epoch.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="epoch", message="%(prog)s %(version)s")
def cli() -> None:
    """An OCI registry whose pushes go from the socket straight into object storage."""


cli.add_command(serve)
cli.add_command(gc)
cli.add_command(verify)
cli.add_command(htpasswd)


def main() -> None:
    """Run what argv names, and exit: 0 done, 1 failed (one line on stderr says why), 2 usage."""
    cli(prog_name="epoch")
