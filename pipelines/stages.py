"""The stages that the stories share; each finds what is done already and does the rest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import kdcache
from kdcache.cli.group import command_failed
from kdcache.cli.progress import progress_line
from kdcache.cli.stopping import StopRequest, stop_on_signals
from kdcache.errors import CheckpointError, KdcacheError, Stopped
from kdcache.mentor_library import find_checkpoint
from kdcache.train import headline

ShouldStop = Callable[[], bool]


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Ctrl-C and SIGTERM stop at the next step; errors end as one message and an exit code."""
    try:
        with stop_on_signals() as stop:
            yield stop
    except KdcacheError as error:
        raise command_failed(str(error), error.exit_code) from error


def train_mentors(names: Sequence[str], dataset: str, stop: ShouldStop, **options: Any) -> None:
    """Trains the mentors that have no checkpoint; `options` are `kdcache.train_mentor`'s."""
    for name in names:
        if has_checkpoint(name, dataset):
            click.echo(f"mentor {name}: has a checkpoint")
            continue
        for record in kdcache.train_mentor(name, dataset=dataset, should_stop=stop, **options):
            tell_epoch(f"mentor {name}", record, options["epochs"])


def cache_targets(
    dataset: Any, mentors: Sequence[str], store: Path, stop: ShouldStop, **options: Any
) -> kdcache.TargetStore:
    """Runs the mentors over what the store lacks; `options` are `kdcache.precompute_targets`'s."""
    click.echo(f"store {store}: {options['views']} views of {', '.join(mentors)}")
    with progress_line("views") as progress:
        found = kdcache.precompute_targets(
            dataset, mentors, store=store, progress=progress, should_stop=stop, **options
        )
    if stop():
        raise Stopped(f"stopped; every finished block is committed in {store}. Run again to go on")
    return found


def has_checkpoint(name: str, dataset: str) -> bool:
    """Whether the mentor library or `$KDCACHE_DATA/mentors` has this mentor."""
    try:
        find_checkpoint(name, dataset)
    except CheckpointError:
        return False
    return True


def tell_epoch(who: str, record: dict[str, Any], epochs: int) -> None:
    """One line an epoch."""
    name, value = headline(record)
    tested = "" if value is None else f", {name} {value:.2f}"
    click.echo(
        f"{who}: epoch {record['epoch'] + 1} of {epochs}, loss {record['train_loss']:.4f}{tested}"
    )
