"""Writers of one store at once: they make what one of them would."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.torture import processes
from benchmarks.torture.judging import chunk_path, judge
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import MENTORS, Truth, World, clear, copy, undisturbed
from kdcache import durable

LATEST_START = 0.05  # seconds after the first

LEFT, RIGHT = ({"mentors": [name]} for name in MENTORS)
ALL: dict[str, Any] = {}
ONE_VIEW = {"views": 1}
# What each writer is asked for; together it is everything.
RACES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "two, the same mentors": [ALL] * 2,
    "four, the same mentors": [ALL] * 4,
    "two, different mentors": [LEFT, RIGHT],
    "four, different mentors": [LEFT, RIGHT] * 2,
    "two, one and two views": [ONE_VIEW, ALL],
    "four, one and two views": [ONE_VIEW, ALL] * 2,
}


def measure(folder: Path, seed: int, quick: bool) -> Iterator[Tally]:
    """50 rounds of each; quick: 5."""
    rounds = 5 if quick else 50
    truth = undisturbed(World(), clear(folder / "truth" / "store"))
    for name, writers in RACES.items():
        yield race(truth, name, writers, folder, seed, rounds)
    yield race_with_healing(truth, folder, seed, rounds)
    yield race(truth, "four, two of them killed", [ALL] * 4, folder, seed, rounds, killed=2)


def race_with_healing(truth: Truth, folder: Path, seed: int, rounds: int) -> Tally:
    """A store of one view with a damaged chunk, healed while it is given a second view."""
    damaged = clear(folder / "damaged" / "store")
    truth.world.precompute(damaged, views=1)
    chunk = chunk_path(damaged, (f"{MENTORS[1]}/logits", 0, 0))
    chunk.write_bytes(bytes(chunk.stat().st_size))
    name = "two, one heals while one adds a view"
    return race(truth, name, [ONE_VIEW, ALL], folder, seed, rounds, damaged)


def race(
    truth: Truth,
    name: str,
    writers: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    rounds: int,
    start: Path | None = None,
    killed: int = 0,
) -> Tally:
    """Writers at once on a new store, or on copies of the one at `start`.

    `killed`: so many of them are, at random moments.
    """
    tally = Tally(what=f"writers at once: {name}")
    chance = random.Random(f"{seed} {name}")
    work = folder / "work" / "store"
    with tally.timed():
        for number in range(rounds):
            if start is None:
                clear(work)
            else:
                copy(start, work)
            how = f"round {number} of seed {seed}"
            _run_at_once(truth.world, work, writers, killed, chance, tally, how)
            left = [path.name for path in work.rglob("*") if durable.is_aside(path.name)]
            left = [] if killed else left
            tally.report(how, [f"left over: {path}" for path in left])
            judge(work, truth, tally, how, finished=True)
    return tally


def _run_at_once(
    world: World,
    root: Path,
    writers: Sequence[Mapping[str, Any]],
    killed: int,
    chance: random.Random,
    tally: Tally,
    how: str,
) -> None:
    children = {}
    for number, asked in enumerate(writers):
        report = root.parent / f"writer-{number}"
        delay = chance.uniform(0, LATEST_START)
        children[processes.start(partial(_write, world, root, asked, delay), report)] = report
    for child in list(children)[:killed]:
        time.sleep(chance.uniform(0, LATEST_START))
        processes.kill(child)
        del children[child]
    for child, report in children.items():
        if processes.wait(child) != 0:
            error = report.read_text().strip().splitlines()[-1] if report.exists() else "killed"
            tally.report(how, [f"a writer failed: {error}"])


def _write(world: World, root: Path, asked: Mapping[str, Any], delay: float) -> None:
    time.sleep(delay)
    world.precompute(root, **asked)
