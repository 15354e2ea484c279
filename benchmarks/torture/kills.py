"""Larger runs of real networks, killed at random moments, again and again until one finishes."""

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.torture import processes
from benchmarks.torture.judging import judge, look
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import Truth, World, clear, undisturbed

WORLD = World(encoder="sqrt8-zstd", samples=600, block=100, network="r8", views=4)
MOST_KILLS = 4  # of one store, before it is finished


def measure(folder: Path, seed: int, quick: bool) -> Iterator[Tally]:
    """50 kills; quick: 4."""
    truth = undisturbed(WORLD, clear(folder / "truth" / "store"))
    yield kill_at_random(truth, folder, seed, kills=4 if quick else 50)


def kill_at_random(truth: Truth, folder: Path, seed: int, kills: int) -> Tally:
    """Kills writers of one store until one finishes or `MOST_KILLS` are dead; then of the next."""
    tally = Tally(what=f"killed at random moments, {truth.world.encoder}, {truth.world.network}")
    chance = random.Random(seed)
    work = folder / "work" / "store"
    with tally.timed():
        seconds = _seconds_undisturbed(truth.world, work)
        while tally.rounds < kills:
            clear(work)
            dead, finished = 0, False
            while dead < min(MOST_KILLS, kills - tally.rounds) and not finished:
                child = processes.start(partial(truth.world.precompute, work))
                time.sleep(chance.uniform(0, seconds))
                code = processes.kill(child)
                finished = code == 0
                dead += not finished
                how = f"kill {tally.rounds + dead} of seed {seed}"
                if code == 1:
                    tally.report(how, ["the run failed"])
                looked = look(work, truth, finished=finished)
                tally.lost += len(looked.lost)
                tally.wrong += len(looked.wrong)
                tally.report(how, [*map(str, sorted(looked.lost)), *looked.wrong])
            judge(work, truth, tally, how, finished=finished, rounds=dead)
    return tally


def _seconds_undisturbed(world: World, root: Path) -> float:
    started = time.perf_counter()
    processes.wait(processes.start(partial(world.precompute, clear(root))))
    return time.perf_counter() - started
