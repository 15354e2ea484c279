"""Commands on hubs: `kdcache push`, `kdcache list`."""

import json
import os
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import NameList, ViewChoice, config_option, hub_argument
from kdcache.cli.printing import tell, tell_all
from kdcache.cli.progress import progress_line, readable_bytes, readable_seconds
from kdcache.cli.stopping import stop_on_signals
from kdcache.errors import readable
from kdcache.tasks import POSE, PRIMARY, PRIMARY_OF

if TYPE_CHECKING:
    from kdcache.store.hub_documents import HubIndex, ListedStore

MOST_LINES = 50  # of a store: whoever may push can make as many as he likes


@click.command()
@click.argument("store", metavar="STORE")
@hub_argument()
@click.option("--mentors", type=NameList(), help="Mentors to push.  [default: the store's]")
@click.option(
    "--views", type=ViewChoice(), help="The first N, a list, or 0:40.  [default: whatever is there]"
)
@click.option(
    "--overwrite", is_flag=True, help="Move what is there too: a file damaged there is whole again."
)
@click.option(
    "--licence",
    metavar="TEXT",
    help="For the card there, such as cc-by-4.0.  [default: as the store's own card says]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be moved, and stop.")
@config_option
def push(store: str, hub: str | None, **options: Any) -> None:
    """Move what a hub lacks of a store there, and have it shown.

    HUB is a URL (s3://, gs://, sftp://, hf://datasets/...) or a shared folder; $KDCACHE_HUB where
    none is named. The first push to an empty place makes a hub of it. Several people may push at
    once. Interrupted or cut, the same command goes on.
    """
    with stop_on_signals() as stop:
        from kdcache.errors import Stopped
        from kdcache.share import PushJob, default_hub
        from kdcache.store import view_ranges

        dry_run = options.pop("dry_run")
        job = PushJob(store, default_hub(hub), **options)
        address = job.hub.short_address(job.store.fingerprint)
        tell(f"{job.shown + len(job.chunks):,} chunks, {job.shown:,} of them are at {address}")
        for title, count in job.different.items():
            if count:
                tell(
                    f"{count:,} chunks of {title} are there with other bytes (the same targets, "
                    "computed on another machine): the hub's stay",
                    err=True,
                )
        tell_all(job.beside)
        tell(f"to move: {len(job.planned):,} chunks, {readable_bytes(job.num_bytes)}")
        if dry_run:
            return
        with progress_line("bytes") as progress:
            result = job.run(progress=progress, should_stop=stop)
        if result.stopped:
            raise Stopped(
                f"stopped; {result.num_chunks:,} chunks were moved to {job.hub.url} and are kept "
                "there. Run the same command again to go on"
            )
        tell_all([f"damaged: {readable(str(damage), 1000)}" for damage in result.damaged], err=True)
        if result.num_bytes:
            tell(
                f"moved {readable_bytes(result.num_bytes)} in {readable_seconds(result.seconds)}, "
                f"{readable_bytes(round(result.num_bytes / result.seconds))} a second"
            )
        for title, views in job.lacking.items():
            tell(f"not complete here: mentor {title}, view {view_ranges(views[:99])}")
        tell(
            f"{_pushed(options)}{job.store.address} is at the hub. Others get it with:\n"
            f"  kdcache pull {result.short_address}\nor train from it there:\n"
            f"  kdcache train-student --store {result.short_address}"
        )
        if result.damaged:
            tell(f"compute what is damaged again with, then push again:\n  {result.healing}")
            raise click.exceptions.Exit(1)


def _pushed(options: dict[str, Any]) -> str:
    return "what was asked for of " if options["mentors"] or options["views"] is not None else ""


@click.command(name="list")
@hub_argument()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@config_option
def list_stores(hub: str | None, as_json: bool) -> None:
    """Show which stores and mentors a hub holds; one request.

    Where neither HUB nor $KDCACHE_HUB names one: the stores under $KDCACHE_HOME.
    """
    from kdcache.share import default_hub, list_hub

    if hub or os.environ.get("KDCACHE_HUB"):
        place = default_hub(hub).rstrip("/")
        index = list_hub(place)
        places = {name: f"{place}/stores/{name[:16]}" for name in index.stores}
        none = f"{place} holds no store yet. Push one with: kdcache push STORE {place}"
    else:
        from kdcache.share import local_stores

        index, places = local_stores()
        none = "no store under $KDCACHE_HOME. Make one with `kdcache precompute`, or name a HUB"
    if as_json:
        document = index.to_json()
        for store in document["stores"]:
            store["address"] = places[store["fingerprint"]]
        click.echo(json.dumps(document, indent=2))
        return
    for fingerprint, listed in index.stores.items():
        _print_store(places[fingerprint], listed)
    _print_mentors(index)
    if not index.stores:
        tell(none)


def _print_store(address: str, store: "ListedStore") -> None:
    what = "joints" if any(one.kind == PRIMARY_OF[POSE] for one in store.targets) else "classes"
    tell(
        f"{address}\n  {store.dataset} ({store.split}), {store.samples:,} samples, "
        f"{store.classes} {what}; {store.recipe}, view seed {store.view_seed}; "
        f"{store.views} views, {readable_bytes(store.bytes)}"
    )
    if store.targets:
        tell(
            f"  {'mentor':<18}{'top-1':>7}  {'views':>7}  {'bytes':>9}  {'encoder':<11} checkpoint"
        )
    names = [one.mentor for one in store.targets if one.kind in PRIMARY]
    for one in store.targets[:MOST_LINES]:
        kind = "" if one.kind in PRIMARY else f" {one.kind}"
        accuracy = "-" if one.accuracy is None else f"{one.accuracy:.2f}"
        variant = f"  +{one.identity[:16]}" if kind == "" and names.count(one.mentor) > 1 else ""
        tell(
            f"  {one.mentor + kind:<18}{accuracy:>7}  {one.complete_views:>3}/{one.views:<3}  "
            f"{readable_bytes(one.bytes):>9}  {one.encoder:<11} {one.checkpoint_sha256[:12]}"
            f"{variant}"
        )
    if len(store.targets) > MOST_LINES:
        tell(f"  and {len(store.targets) - MOST_LINES:,} more; --json lists all")


def _print_mentors(index: "HubIndex") -> None:
    for entry in index.mentors:
        tell(
            f"mentor {entry['name']} for {entry['dataset']}  {entry['sha256'][:12]}  "
            f"{readable_bytes(entry['bytes'])}"
        )
