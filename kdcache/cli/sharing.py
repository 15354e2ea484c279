"""Commands between two stores: `kdcache merge`, `kdcache pull`, `kdcache diff`."""

import json
import os
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import NameList, ViewChoice, config_option, hub_argument, stack
from kdcache.cli.printing import tell, tell_all
from kdcache.cli.progress import progress_line, readable_bytes, readable_seconds
from kdcache.cli.stopping import StopRequest, stop_on_signals
from kdcache.cli.stores import print_mentors
from kdcache.errors import Stopped, UsageError, readable

if TYPE_CHECKING:
    from kdcache.copying import CopyJob

HUB = "KDCACHE_HUB"

copy_options = stack(
    click.option("--mentors", type=NameList(), help="Mentors to take along.  [default: all]"),
    click.option(
        "--views",
        type=ViewChoice(),
        help="The first N, a list, or a range such as 0:40.  [default: whatever is there]",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be copied, and stop."),
    config_option,
)


@click.command()
@click.argument("source", metavar="SOURCE|URL")
@click.argument("destination", type=click.Path())
@copy_options
def merge(source: str, destination: str, **options: Any) -> None:
    """Copy mentors and views of a store into another of the same views.

    What DESTINATION has, and is sound, stays; what it lacks or has damaged is copied, each chunk
    checked against the digest that it was committed with. A new DESTINATION is made.
    """
    with stop_on_signals() as stop:
        from kdcache.copying import CopyJob

        dry_run = options.pop("dry_run")
        job = CopyJob(source, destination, **options)
        if not _run(job, stop, dry_run=dry_run):
            raise click.exceptions.Exit(1)


@click.command()
@hub_argument("url", "URL")
@click.option(
    "--store", type=click.Path(), help="The store's folder.  [default: under $KDCACHE_HOME/stores]"
)
@copy_options
def pull(url: str | None, store: str | None, **options: Any) -> None:
    """Fetch a store, or mentors and views of it, into a folder here.

    Only what the folder lacks or has damaged moves, each chunk checked as it arrives, so the same
    command goes on after a cut. Without URL: $KDCACHE_HUB.
    """
    with stop_on_signals() as stop:
        from kdcache.copying import CopyJob
        from kdcache.defaults import default_store
        from kdcache.store import open_store, training_command, view_ranges

        url = url or os.environ.get(HUB)
        if not url:
            raise UsageError(f"say what to pull: kdcache pull URL, or set ${HUB}")
        dry_run = options.pop("dry_run")
        source = open_store(url)
        root = default_store(source.manifest) if store is None else store
        job = CopyJob(source, root, **options)
        is_whole = _run(job, stop, dry_run=dry_run)
        for title, views in job.lacking.items():
            tell(f"not complete there: mentor {title}, view {view_ranges(views[:99])}")
        if dry_run:
            return
        command = training_command(open_store(job.root), options["mentors"])
        if command is None:
            tell("no view is complete yet, so there is nothing to train from")
        else:
            tell(f"train from it with:\n  {command}")
        if not is_whole:
            raise click.exceptions.Exit(1)


@click.command()
@click.argument("left", metavar="A|URL")
@click.argument("right", metavar="B|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@config_option
def diff(left: str, right: str, as_json: bool) -> None:
    """Say what is different in two stores: views, mentors, chunks. No chunk is read.

    Exit code 0: both hold the same, byte for byte. 1: they do not.
    """
    from kdcache.differing import compare_stores

    found = compare_stores(left, right)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        tell_all(found.lines())
        tell("alike" if found.alike else "different")
    if not found.alike:
        raise click.exceptions.Exit(1)


def _run(job: "CopyJob", stop: StopRequest, *, dry_run: bool) -> bool:
    """Copies and tells; whether all that was planned is there now, or was only to be said."""
    tell(
        f"from {job.source.address}\nto   {job.root}: {len(job.planned):,} chunks "
        f"({readable_bytes(job.num_bytes)}) to copy, {job.reused:,} there already"
    )
    if dry_run:
        for line in job.by_targets():
            tell(f"  {line}")
        _print_damage(job.source.address, [str(one) for one in job.damaged], None)
        return True
    with progress_line("bytes") as progress:
        result = job.run(progress=progress, should_stop=stop)
    for path in result.healed:
        tell(f"made anew: {path}")
    for name, count in result.different.items():
        tell(
            f"{count:,} chunks of mentor {name} are in both stores with other bytes, each sound: "
            f"computed twice, on different machines. Those in {job.root} stay",
            err=True,
        )
    if result.stopped:
        raise Stopped(
            f"stopped; every chunk that arrived is committed in {job.root}. Run the same command "
            "again to go on"
        )
    tell(
        f"copied {result.num_chunks:,} chunks, {readable_bytes(result.num_bytes)} in "
        f"{readable_seconds(result.seconds)}"
        if result.num_chunks
        else "nothing was copied: all that can be had is there"
    )
    print_mentors(result.store)
    _print_damage(job.source.address, [str(one) for one in result.damaged], result.healing)
    tell_all([f"refused: {readable(str(one), 1000)}" for one in result.refused], err=True)
    return result.ok


def _print_damage(address: str, damaged: list[str], healing: str | None) -> None:
    tell_all([f"damaged in the source: {readable(one, 1000)}" for one in damaged], err=True)
    if healing is not None:
        remote = "://" in address
        who = "tell its owner; the command that heals it" if remote else "make it anew with"
        tell(f"not copied: what is damaged in {address}; {who}:\n  {healing}", err=True)
