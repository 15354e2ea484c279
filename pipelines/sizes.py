"""How large an experiment is: in full, as a smoke of what is at hand, and the options over both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

import kdcache
from kdcache.cli.options import Command, NameList, stack
from kdcache.errors import DatasetError
from kdcache.mentor_library import mentor_name
from kdcache.models import long_name
from pipelines.stages import has_checkpoint


@dataclass(frozen=True, kw_only=True)
class Size:
    """An experiment's data, networks and lengths; the teacher is the first mentor."""

    dataset: str
    student: str
    mentors: tuple[str, ...]
    samples: int | None  # None: all
    epochs: int
    mentor_epochs: int
    views: int | None  # None: one an epoch
    seeds: tuple[int, ...]
    eval_every: int

    @property
    def num_views(self) -> int:
        """How many views to cache."""
        return self.views or self.epochs


# The bundled digits, for a smoke without real data.
DIGITS = Size(
    dataset="digits", student="r8", mentors=("r14", "r8"),
    samples=200, epochs=2, mentor_epochs=2, views=None, seeds=(0, 1), eval_every=1,
)  # fmt: skip


def choose_size(size: Size, given: Mapping[str, Any]) -> Size:
    """`size` with the options that were given, every mentor once and by its short name.

    `size` is replaced by `DIGITS` where its data or a mentor's checkpoint must be at hand (it is a
    smoke: `given["smoke"]`) and is not. Raises UsageError for a name of no known network.
    """
    at_hand = all(has_checkpoint(name, size.dataset) for name in size.mentors)
    if given["smoke"] and not (at_hand and _has_data(size.dataset)):
        size = DIGITS
    return as_given(size, given)


def as_given(size: Size, given: Mapping[str, Any]) -> Size:
    """`size` with the options that were given. Errors and names as `choose_size`'s."""
    options = {k: v for k, v in given.items() if k in vars(size) and v is not None}
    size = replace(size, **options)
    long_name(size.student)
    return replace(size, mentors=tuple(dict.fromkeys(map(mentor_name, size.mentors))))


def _has_data(dataset: str) -> bool:
    """Whether it is here, without a download."""
    try:
        kdcache.open_dataset(dataset, download=False)
    except DatasetError:
        return False
    return True


def parse_numbers(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...] | None
) -> tuple[int, ...] | None:
    """A click callback: different numbers from 0 up."""
    if texts is None:
        return None
    if not all(text.isdecimal() for text in texts) or len(set(map(int, texts))) < len(texts):
        raise click.BadParameter(
            f"expected different numbers from 0 up, such as 0,1,2; got {','.join(texts)}"
        )
    return tuple(map(int, texts))


def size_options(full: Size) -> Callable[[Command], Command]:
    """The options over a pipeline's size, their help naming the full one's values."""
    count = click.IntRange(min=1)
    seeds = ",".join(map(str, full.seeds))
    return stack(
        click.option("--smoke", is_flag=True, help="The whole story within 3 minutes."),
        click.option("--student", help=f"The network to train.  [default: {full.student}]"),
        click.option(
            "--mentors", type=NameList(), help=f"Who teaches.  [default: {','.join(full.mentors)}]"
        ),
        click.option(
            "--seeds",
            type=NameList(),
            callback=parse_numbers,
            help=f"A run each.  [default: {seeds}]",
        ),
        click.option("--epochs", type=count, help=f"Of every student.  [default: {full.epochs}]"),
        click.option(
            "--mentor-epochs",
            type=count,
            help=f"Of mentors without a checkpoint.  [default: {full.mentor_epochs}]",
        ),
        click.option(
            "--samples", type=count, help="Train on the first N, balanced.  [default: all]"
        ),
        click.option("--views", type=count, help="Views to cache.  [default: one an epoch]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps."),
    )
