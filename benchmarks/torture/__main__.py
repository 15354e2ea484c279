"""`python -m benchmarks.torture`: what a store survives, in one table."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch

from benchmarks.torture import crashes, damage, kills, power_cuts, races
from benchmarks.torture.tally import Tally, heading
from benchmarks.torture.world import scratch

MOST_PROBLEMS = 10  # printed of a row

PARTS: dict[str, Callable[[Path, int, bool], Iterator[Tally]]] = {
    "crashes": crashes.measure,
    "power-cuts": power_cuts.measure,
    "kills": kills.measure,
    "damage": damage.measure,
    "races": races.measure,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", default=0, show_default=True, help="Of everything that is random.")
@click.option("--quick", is_flag=True, help="A few of everything: under two minutes.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice(list(PARTS)),
    help=f"Only this part; repeatable. One of {', '.join(PARTS)}.  [default: all]",
)
def main(seed: int, quick: bool, only: tuple[str, ...]) -> None:
    """Kill writers, cut their power, damage their files, race them; print what was lost.

    Ends with 1 if anything committed was lost, anything was believed wrongly, or a store could not
    be finished to what an undisturbed run makes.
    """
    torch.set_num_threads(1)  # a forked process cannot use more
    tallies = []
    click.echo(f"seed {seed}\n{heading()}")
    for name in [part for part in PARTS if not only or part in only]:
        with scratch() as folder:
            for tally in PARTS[name](folder, seed, quick):
                click.echo(tally.line())
                for problem in tally.problems[:MOST_PROBLEMS]:
                    click.echo(f"    {problem}")
                if len(tally.problems) > MOST_PROBLEMS:
                    click.echo(f"    and {len(tally.problems) - MOST_PROBLEMS} more")
                tallies.append(tally)
    click.echo(total(tallies).line())
    sys.exit(0 if all(tally.ok for tally in tallies) else 1)


def total(tallies: list[Tally]) -> Tally:
    """The last line."""
    return Tally(
        what="all",
        rounds=sum(tally.rounds for tally in tallies),
        lost=sum(tally.lost for tally in tallies),
        wrong=sum(tally.wrong for tally in tallies),
        healed=sum(tally.healed for tally in tallies),
        seconds=sum(tally.seconds for tally in tallies),
    )


if __name__ == "__main__":
    main()
