"""Command line options that the commands of the benchmarks share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def repeats_option(default: int) -> Callable[[Command], Command]:
    """`--repeats`."""
    return click.option(
        "--repeats",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Interleaved rounds; the median counts.",
    )


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with cifar-100-python/ and mentors/cifar100/.  [default: $KDCACHE_DATA]",
)
