"""The power cut after every single operation of a writer, and after it was killed and run again."""

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.torture.crashes import Scene, record, scenes
from benchmarks.torture.disks import HARSH, NO_CUT, WORST, Disk, chance_cut, write_state
from benchmarks.torture.judging import judge
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import Truth, World, clear, restore, undisturbed

CHANCES = 3  # random states of a moment, beside the harsh ones


def measure(folder: Path, seed: int, quick: bool) -> Iterator[Tally]:
    """Every scene; quick: every ninth moment."""
    truth = undisturbed(World(encoder="float16"), clear(folder / "truth" / "store"))
    for scene in scenes(truth):
        yield cut_everywhere(truth, scene, folder, seed, step=9 if quick else 1)
    for scene in scenes(truth):
        yield cut_after_kill(truth, scene, folder, step=9 if quick else 1)


def cut_everywhere(truth: Truth, scene: Scene, folder: Path, seed: int, step: int = 1) -> Tally:
    """One scene: the power cut after every `step`-th operation, all that it may leave."""
    tally = Tally(what=f"power cut while {scene.name}")
    work = folder / "work" / "store"
    chance = random.Random(f"{seed} {scene.name}")
    with tally.timed():
        restore(_prepared(scene, folder), work)
        disk = Disk(work.parent)
        operations = record(truth.world, work)
        seen = set()
        for moment, operation in enumerate([None, *operations]):
            if operation is not None:
                disk.apply(operation)
            if moment % step and moment != len(operations):
                continue
            done = "nothing" if operation is None else operation.within(work)
            for cut in (*HARSH, *[chance_cut(chance)] * CHANCES):
                state = disk.after(cut)
                finished = moment == len(operations)
                if (same := frozenset(state.items())) in seen and not finished:
                    continue  # an earlier moment left the same
                seen.add(same)
                write_state(state, clear(work).parent)
                how = f"power cut after operation {moment} ({done}), {cut.name}"
                _judge(work, truth, tally, how, scene, finished)
    return tally


def cut_after_kill(truth: Truth, scene: Scene, folder: Path, step: int = 1) -> Tally:
    """One scene: killed after every `step`-th operation, finished, and then the power is cut.

    Whoever finishes a store trusts what is there: it must make that durable too.
    """
    tally = Tally(what=f"killed, finished, power cut: {scene.name}")
    work = folder / "work" / "store"
    start = _prepared(scene, folder)
    with tally.timed():
        restore(start, work)
        operations = record(truth.world, work)
        for moment in range(0, len(operations) + 1, step):
            restore(start, work)
            disk = Disk(work.parent)
            for operation in operations[:moment]:
                disk.apply(operation)
            write_state(disk.after(NO_CUT), clear(work).parent)
            for operation in record(truth.world, work):
                disk.apply(operation)
            write_state(disk.after(WORST), clear(work).parent)
            how = f"killed after {moment} operations, finished, power cut"
            _judge(work, truth, tally, how, scene, finished=True)
    return tally


def _prepared(scene: Scene, folder: Path) -> Path:
    start = clear(folder / "start" / "store")
    scene.prepare(start)
    return start


def _judge(work: Path, truth: Truth, tally: Tally, how: str, scene: Scene, finished: bool) -> None:
    if finished:
        judge(work, truth, tally, how, finished=True)
    else:
        judge(work, truth, tally, how, readable=scene.readable, spoiled=scene.spoiled)
