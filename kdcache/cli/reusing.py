"""What `kdcache precompute --hub` says and does beside a plain one: takes, and offers back."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kdcache.cli.options import stack
from kdcache.cli.printing import tell, tell_all
from kdcache.cli.progress import progress_line, readable_bytes, readable_seconds
from kdcache.cli.stopping import StopRequest
from kdcache.errors import KdcacheError, RunFailed, Stopped, UsageError

if TYPE_CHECKING:
    from kdcache.reusing import ReuseJob
    from kdcache.store import Damage

hub_options = stack(
    click.option(
        "--hub",
        help="A hub, its URL or folder: what it has of exactly this is taken, a few rows of each "
        "chunk compared, and not computed.  [default: $KDCACHE_HUB, else none]",
    ),
    click.option("--no-hub", is_flag=True, help="Without a hub, whatever $KDCACHE_HUB says."),
    click.option("--push", is_flag=True, help="Offer the hub what it lacks of these mentors."),
)


def chosen_hub(hub: str | None, no_hub: bool, push: bool) -> str | None:
    """The hub that these options and $KDCACHE_HUB name; None for none. Raises UsageError."""
    if hub and no_hub:
        raise UsageError(f"--no-hub contradicts --hub {hub}; give one of them")
    chosen = None if no_hub else hub or os.environ.get("KDCACHE_HUB") or None
    if push and chosen is None:
        raise UsageError("--push needs a hub: name one with --hub or in $KDCACHE_HUB")
    return chosen


def tell_offer(reuse: "ReuseJob") -> None:
    """What is to be taken, from where, and why other things are not."""
    for moved in reuse.pulled:
        tell(
            f"checkpoint of {moved.shared.name} from {reuse.hub.url}, SHA-256 "
            f"{moved.shared.sha256}, {readable_bytes(moved.bytes)}"
        )
    tell_all(reuse.notes)
    if reuse.takeable:
        names = ", ".join(dict.fromkeys(mentor for mentor, _ in reuse.takeable))
        chunks = sum(map(len, reuse.takeable.values()))
        tell(
            f"to take from {_address(reuse)}: {_chunks(chunks)} of {names}, "
            f"{readable_bytes(reuse.num_bytes)}, after {reuse.num_rows:,} rows are run here to "
            "compare them"
        )


def take(reuse: "ReuseJob", stop: StopRequest) -> None:
    """Takes what is offered, and says what came, and what did not."""
    if not reuse.takeable:
        return
    with progress_line("rows to compare") as checking, progress_line("bytes taken") as taking:
        taken = reuse.take(checking=checking, taking=taking, should_stop=stop)
    count = sum(taken.chunks.values())
    if count:
        names = ", ".join(title for title, chunks in taken.chunks.items() if chunks)
        tell(
            f"took {_chunks(count)} ({readable_bytes(taken.bytes)}) of {names} from "
            f"{_address(reuse)}, {taken.rows:,} rows of them computed again and alike"
        )
    _tell_left(taken.refused, reuse.hub.url, "not what the mentor says")
    _tell_left(taken.damaged, reuse.hub.url, "damaged")
    if taken.refused:
        tell(f"{reuse.hub.url} still shows it: tell who looks after it", err=True)
    if taken.stopped:
        raise Stopped(
            f"stopped; what was taken is committed in {reuse.job.root}. Run the same command "
            "again to go on"
        )


def offer(reuse: "ReuseJob", stop: StopRequest) -> None:
    """Pushes; what fails leaves the store as it is, and is said with the command to run later."""
    names = ",".join(reuse.job.pool.names)
    later = shlex.join(["kdcache", "push", str(reuse.job.root), reuse.hub.url, "--mentors", names])
    try:
        with progress_line("bytes pushed") as progress:
            pushed = reuse.push(progress=progress, should_stop=stop)
    except Stopped:
        raise
    except (KdcacheError, OSError) as error:
        raise RunFailed(
            f"not pushed, the store here is whole: {error}\nPush it later with: {later}"
        ) from error
    if pushed.stopped:
        raise Stopped(f"stopped; the store is complete. Push the rest with: {later}")
    if pushed.num_chunks:
        tell(
            f"pushed {_chunks(pushed.num_chunks)} ({readable_bytes(pushed.num_bytes)}) to "
            f"{_address(reuse)} in {readable_seconds(pushed.seconds)}"
        )
    else:
        tell(f"nothing to push: {_address(reuse)} has it all")
    if pushed.damaged:
        raise RunFailed(
            f"{_chunks(len(pushed.damaged))} of the store here changed since they were committed "
            f"and were not pushed; the first: {pushed.damaged[0]}. Compute them again with: "
            f"{pushed.healing}"
        )


def _tell_left(left: "Sequence[Damage]", hub: str, what: str) -> None:
    """One line a mentor: how many chunks are to be computed after all, and why the first."""
    from kdcache.encode import find_kind
    from kdcache.store import title

    counts = Counter((damage.mentor, damage.kind) for damage in left)
    for (mentor, kind), count in counts.items():
        first = next(d for d in left if (d.mentor, d.kind) == (mentor, kind))
        verb, they = ("is", "it is") if count == 1 else ("are", "they are")
        tell(
            f"{_chunks(count)} of {title(str(mentor), find_kind(str(kind)))} at {hub} {verb} "
            f"{what}: view {first.view}, block {first.block}, {first.reason}; {they} computed here",
            err=True,
        )


def _address(reuse: "ReuseJob") -> str:
    return reuse.hub.short_address(reuse.job.plan.manifest.fingerprint)


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count:,} chunks"
