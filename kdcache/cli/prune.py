"""`kdcache prune`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import NameList, ViewChoice, config_option
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
    help="Views to drop: a list, or a range such as 20:40, or 3:4 for view 3.  "
    "[default: all of --mentors]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def prune(store: str, dry_run: bool, yes: bool, **options: Any) -> None:
    """Drop mentors of a store, or views: of all its mentors, or of some.

    What is dropped is gone from the disk; `kdcache precompute` would compute it again. Killed, the
    same command goes on. Not while another command writes to the store; a training that reads what
    is dropped fails.
    """
    from kdcache.store import PruneJob

    _require_listed(options["views"])
    job = PruneJob(store, **options)
    for one in job.planned:
        tell(f"{_what(one)}: {one.files:,} files, {readable_bytes(one.bytes)}")
    if dry_run:
        return
    if not yes and not _is_terminal():
        raise UsageError("nothing was dropped: there is no terminal to ask on; give --yes")
    if not yes and not click.confirm(f"Drop this from {job.root}?"):
        tell("nothing was dropped")
        return
    with progress_line("bytes") as progress:
        freed = job.run(progress=progress)
    tell(f"dropped; {readable_bytes(freed)} freed in {job.root}")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _require_listed(views: int | tuple[int, ...] | None) -> None:
    """Raises UsageError for a lone number: elsewhere it is how many, here most mean which."""
    if isinstance(views, int):
        first = f", or 0:{views} for the first {views}" if views > 0 else ""
        raise UsageError(
            f"nothing was dropped: --views {views} may mean two things; say "
            f"{max(views, 0)}:{max(views, 0) + 1} for view {max(views, 0)}{first}"
        )


def _what(one: "Pruned") -> str:
    from kdcache.store import view_ranges

    if one.views is None:
        return f"mentor {one.mentor}, with all its targets"
    return f"mentor {one.mentor}, view {view_ranges(one.views[:99])}"
