"""`kdcache prune`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import NameList, ViewChoice
from kdcache.cli.printing import tell
from kdcache.cli.progress import progress_line, readable_bytes
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.store import Pruned


@click.command()
@click.argument("store", type=click.Path())
@click.option("--mentors", type=NameList(), help="Mentors to drop, or whose views to drop.")
@click.option(
    "--views",
    type=ViewChoice(),
    help="Views to drop: the first N, a list, or a range such as 20:40.  "
    "[default: all of --mentors]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(store: str, dry_run: bool, yes: bool, **options: Any) -> None:
    """Drop mentors of a store, or views: of all its mentors, or of some.

    What is dropped is gone from the disk; `kdcache precompute` would compute it again. Killed, the
    same command goes on. Not while another command writes to the store; a training that reads what
    is dropped fails.
    """
    from kdcache.store import PruneJob

    job = PruneJob(store, **options)
    for one in job.planned:
        tell(f"{_what(one)}: {one.files:,} files, {readable_bytes(one.bytes)}")
    if dry_run:
        return
    if not yes and not _is_terminal():
        raise UsageError("nothing was dropped: there is no terminal to ask on; give --yes")
    if not yes and not click.confirm(f"Drop this from {job.root}?"):
        raise UsageError("nothing was dropped")
    with progress_line("bytes") as progress:
        freed = job.run(progress=progress)
    tell(f"dropped; {readable_bytes(freed)} freed in {job.root}")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _what(one: "Pruned") -> str:
    from kdcache.store import view_ranges

    if one.views is None:
        return f"mentor {one.mentor}, with all its targets"
    return f"mentor {one.mentor}, view {view_ranges(one.views[:99])}"
