"""`python -m benchmarks`: the budgets of DESIGN section 7, measured, in one table."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch

from benchmarks import (
    checks,
    cold,
    encoders,
    gpu,
    hardware,
    pose,
    precompute,
    profile,
    readers,
    reading,
    remote,
    results_file,
    sharing,
    streamed,
    sweep,
    training,
    views,
    windows,
)
from benchmarks.material import Settings, default_data_dir
from benchmarks.options import data_dir_option, repeats_option
from benchmarks.table import Row, Skipped, heading, markdown

GROUPS: dict[str, Callable[[Settings], Iterator[Row | Skipped]]] = {
    "views": views.measure,
    "reading": reading.measure,
    "streamed": streamed.measure,
    "cold": cold.measure,
    "readers": readers.measure,
    "windows": windows.measure,
    "remote": remote.measure,
    "sharing": sharing.measure,
    "training": training.measure,
    "profile": profile.measure,
    "sweep": sweep.measure,
    "precompute": precompute.measure,
    "pose": pose.measure,
    "encoders": encoders.measure,
    "checks": checks.measure,
}
OTHERS = {"readers": readers.LIBRARIES}  # whose versions belong into the header
QUICK_REPEATS = 2


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quick",
    is_flag=True,
    help=f"Only see that everything works: small sizes, at most {QUICK_REPEATS} rounds.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice(list(GROUPS)),
    help=f"Measure this group of rows; repeatable. One of {', '.join(GROUPS)}.  [default: all]",
)
@repeats_option(default=9)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Of torch. One is steadier on a busy machine.  [default: torch's own; with --quick, 1]",
)
@data_dir_option
@click.option(
    "--markdown",
    "results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also put the table into this file, group by group between its marks; all else stays.",
)
@click.pass_context
def main(
    ctx: click.Context,
    quick: bool,
    only: tuple[str, ...],
    repeats: int,
    threads: int | None,
    data_dir: Path | None,
    results: Path | None,
) -> None:
    """Measure kdcache side by side with what it replaces, on the CPU; nothing is asserted.

    Without CIFAR-100 and its mentors, digits and networks with random weights stand in where only
    time is measured. `gpu` measures on a GPU instead.
    """
    if ctx.invoked_subcommand is not None:
        return
    if quick:
        repeats, threads = min(repeats, QUICK_REPEATS), threads or 1
    # Two threads that share their cores with another process wait for each other at every
    # operation: a student step was seen to take 30 times as long as with one.
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        _print_table(quick, only, repeats, data_dir or default_data_dir(), results)
    finally:
        torch.set_num_threads(threads_before)


main.add_command(gpu.main)


def _print_table(
    quick: bool, only: tuple[str, ...], repeats: int, data_dir: Path | None, results: Path | None
) -> None:
    groups = [group for group in GROUPS if not only or group in only]
    if results is not None:
        results_file.require_places(results, groups)
    header = list(
        hardware.describe(repeats, [name for group in groups for name in OTHERS.get(group, ())])
    )
    if quick:
        header.append("QUICK: sizes and rounds are too small for these numbers to mean anything")
    for line in [*header, "", heading()]:
        click.echo(line)
    for name in groups:
        rows: list[Row | Skipped] = []
        with tempfile.TemporaryDirectory(prefix="kdcache-benchmarks-") as folder:
            settings = Settings(
                folder=Path(folder), data_dir=data_dir, repeats=repeats, quick=quick
            )
            for row in GROUPS[name](settings):
                rows.append(row)
                for line in row.lines():
                    click.echo(line)
        if results is not None:
            results_file.put(results, name, header, markdown(rows))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
