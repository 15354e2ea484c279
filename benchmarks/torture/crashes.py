"""A writer killed at every single call that changes the disk: before, in the midst of, after it."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.torture import processes
from benchmarks.torture.faults import WRITE, KillAt, Operation, Recorder, watched
from benchmarks.torture.judging import chunk_path, judge
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import (
    INDEX,
    MENTORS,
    Key,
    Truth,
    World,
    clear,
    copy,
    restore,
    undisturbed,
)

MENTOR = MENTORS[1]
SPOILED: Key = (f"{MENTOR}/logits", 1, 0)
SPOILED_FEATURES: Key = (f"{MENTOR}/features", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """From what a precompute starts. `prepare`: makes that of a folder that is not there.

    `readable`, `spoiled`: as `judging.judge` has them.
    """

    name: str
    prepare: Callable[[Path], object]
    readable: bool = True
    spoiled: tuple[Key, ...] = ()


def scenes(truth: Truth) -> list[Scene]:
    """Everything that one precompute may have to do before a store is the whole one."""
    world = truth.world

    def damaged(path: str, content: Callable[[bytes], bytes], root: Path) -> None:
        file = copy(truth.root, root) / path
        file.write_bytes(content(file.read_bytes()))

    def half(content: bytes) -> bytes:
        return content[: len(content) // 2]

    chunk = str(chunk_path(Path(), SPOILED))
    documents = {
        "the store's": "zarr.json",
        "the mentors'": "mentors/zarr.json",
        "a mentor's": f"mentors/{MENTOR}/zarr.json",
        "an array's": f"mentors/{MENTOR}/logits/zarr.json",
        "the sample list's": "index/zarr.json",
    }
    return [
        Scene(name="making it", prepare=lambda root: None),
        Scene(name="adding a view", prepare=partial(world.precompute, views=1)),
        Scene(name="adding a mentor", prepare=partial(world.precompute, mentors=MENTORS[:1])),
        Scene(
            name="healing a chunk",
            prepare=partial(damaged, chunk, _flip),
            spoiled=(SPOILED,),
        ),
        *(
            Scene(
                name=f"healing {whose} zarr.json",
                prepare=partial(damaged, path, half),
                readable=False,
            )
            for whose, path in documents.items()
        ),
        Scene(
            name="healing the sample list",
            prepare=partial(damaged, "index/c/0", _flip),
            readable=False,
        ),
        Scene(
            name="healing an index",
            prepare=partial(damaged, f"mentors/{MENTOR}/logits/{INDEX}", half),
        ),
    ]


def scenes_of_features(truth: Truth) -> list[Scene]:
    """The same where the whole store has features and logsumexps too."""

    def damaged(root: Path) -> None:
        file = chunk_path(copy(truth.root, root), SPOILED_FEATURES)
        file.write_bytes(_flip(file.read_bytes()))

    whole = truth.world.precompute
    return [
        Scene(name="making all kinds", prepare=lambda root: None),
        Scene(name="adding features", prepare=partial(whole, features=False)),
        Scene(name="adding a view of all kinds", prepare=partial(whole, views=1)),
        Scene(name="healing features", prepare=damaged, spoiled=(SPOILED_FEATURES,)),
    ]


def _flip(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def record(world: World, root: Path) -> list[Operation]:
    """The operations of an undisturbed precompute at `root`."""
    recorder = Recorder()
    with watched(root.parent, recorder):
        world.precompute(root)
    return recorder.operations


def measure(folder: Path, seed: int, quick: bool) -> Iterator[Tally]:
    """Every scene; quick: every ninth moment. Nothing here is random."""
    for encoder in ("float16",) if quick else ("float16", "sqrt8-zstd"):
        truth = undisturbed(World(encoder=encoder), clear(folder / encoder / "store"))
        for scene in scenes(truth):
            yield crash_everywhere(truth, scene, folder, step=9 if quick else 1)
    truth = undisturbed(World(features=True), clear(folder / "features" / "store"))
    for scene in scenes_of_features(truth):
        yield crash_everywhere(truth, scene, folder, step=9 if quick else 1)


def crash_everywhere(truth: Truth, scene: Scene, folder: Path, step: int = 1) -> Tally:
    """One scene, killed at every `step`-th operation in three ways."""
    tally = Tally(what=f"killed while {scene.name}, {truth.world.encoder}")
    start = folder / "start" / "store"
    work = folder / "work" / "store"
    with tally.timed():
        clear(start)
        scene.prepare(start)
        operations = record(truth.world, restore(start, work))
        for moment in range(0, len(operations), step):
            for way in KillAt.WAYS:
                if way == KillAt.MIDWAY and operations[moment].kind != WRITE:
                    continue  # the others happen or do not
                restore(start, work)
                how = f"{way} operation {moment} ({operations[moment].within(work)})"
                child = processes.start(partial(_run_and_die, truth.world, work, moment, way))
                if (code := processes.wait(child)) != -signal.SIGKILL:
                    tally.report(how, [f"it ended with {code} instead of being killed"])
                judge(work, truth, tally, how, readable=scene.readable, spoiled=scene.spoiled)
    return tally


def _run_and_die(world: World, root: Path, moment: int, way: str) -> None:
    with watched(root.parent, KillAt(moment, way)):
        world.precompute(root)
