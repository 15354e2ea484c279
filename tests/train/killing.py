"""Runs that die: real processes, SIGKILLed at chosen moments, and gone on with by the same call.

    report = kill_at_random_steps(options, folder, steps=24, kills=20, seed=0)
    report.kills, report.runs_equal, report.runs_different

`options` are `train_student`'s. Processes come from a fork server that has imported torch, so a
death costs about as much as the steps before it. POSIX only.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from tests.train.comparing import same_run

STEP_MOMENTS = ("before the step", "within the step", "after the step")
WRITE_MOMENTS = ("torn before fsync", "before rename", "after rename")
CUT = 7  # bytes that a torn file lacks
# torch's first optimiser imports its compiler, for longer than these runs last.
PRELOADED = ["torch._dynamo", "zarr", "kdcache.train", "tests.train.killing"]


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a process dies.

    `number`: the run's step (from 1), which write of the process (from 1), or seconds.
    """

    moment: str
    number: float


@dataclass(frozen=True, kw_only=True)
class KillReport:
    """Processes killed; runs that ended as the undisturbed one did, and runs that did not."""

    kills: int
    runs_equal: int
    runs_different: int


def kill_at_random_steps(
    options: dict[str, Any], folder: Path, *, steps: int, kills: int = 20, runs: int = 1, seed: int
) -> KillReport:
    """Kills each run at `kills` random steps of its `steps`, then lets it end."""
    chance = random.Random(seed)
    lives = [
        [
            Death(moment=chance.choice(STEP_MOMENTS), number=step)
            for step in sorted(chance.choices(range(1, steps + 1), k=kills))
        ]
        for _ in range(runs)
    ]
    _undisturbed(options, folder)
    return _report(_killed_and_ended(options, folder, str(n), d) for n, d in enumerate(lives))


def kill_at_random_times(
    options: dict[str, Any], folder: Path, *, kills: int = 20, runs: int = 1, seed: int
) -> KillReport:
    """Kills each run's processes after random times, at most as long as an undisturbed one."""
    chance = random.Random(seed)
    longest = _undisturbed(options, folder)
    lives = [
        [Death(moment="seconds", number=chance.uniform(0, longest)) for _ in range(kills)]
        for _ in range(runs)
    ]
    return _report(_killed_and_ended(options, folder, str(n), d) for n, d in enumerate(lives))


def kill_at_every_write(options: dict[str, Any], folder: Path) -> KillReport:
    """One run for every fsync and rename of an undisturbed one, killed just there."""
    _undisturbed(options, folder)
    return _report(
        ended for moment in WRITE_MOMENTS for ended in _killed_at_each(options, folder, moment)
    )


def _killed_at_each(
    options: dict[str, Any], folder: Path, moment: str
) -> Iterator[tuple[int, bool]]:
    for number in count(1):
        death = Death(moment=moment, number=number)
        name = f"{moment.replace(' ', '-')}-{number}"
        kills, equal = _killed_and_ended(options, folder, name, [death])
        if not kills:  # the run has fewer writes
            return
        yield kills, equal


def _undisturbed(options: dict[str, Any], folder: Path) -> float:
    """The run that nothing happens to; returns its seconds."""
    started = time.perf_counter()
    assert _live({**options, "out": str(folder / "undisturbed")}, None) == 0
    return time.perf_counter() - started


def _killed_and_ended(
    options: dict[str, Any], folder: Path, name: str, deaths: Sequence[Death]
) -> tuple[int, bool]:
    """How often a run was killed, and whether it ended as the undisturbed one."""
    options = {**options, "out": str(folder / name)}
    kills = sum(_live(options, death) == -signal.SIGKILL for death in deaths)
    assert _live(options, None) == 0, f"{folder / name} cannot go on"
    return kills, same_run(folder / name, folder / "undisturbed")


def _report(ended: Iterable[tuple[int, bool]]) -> KillReport:
    runs = list(ended)
    equal = sum(equal for _, equal in runs)
    return KillReport(
        kills=sum(kills for kills, _ in runs), runs_equal=equal, runs_different=len(runs) - equal
    )


def _live(options: dict[str, Any], death: Death | None) -> int:
    """Trains in a process of its own until its end or its death; returns the exit code."""
    return live(_train, options, death)


def live(
    work: Callable[[dict[str, Any], Death | None], None],
    options: dict[str, Any],
    death: Death | None,
) -> int:
    """Any work in a process of its own, which is to call `arm(death)` first; the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=(options, death))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _train(options: dict[str, Any], death: Death | None) -> None:
    import torch

    from kdcache.train import train_student

    torch.set_num_threads(1)
    if death is not None:
        arm(death)
    for _ in train_student(**options):
        pass


def arm(death: Death) -> None:
    """Makes this process die at its moment."""
    if death.moment == "seconds":
        timer = threading.Timer(death.number, _die)
        timer.daemon = True
        timer.start()
    elif death.moment in STEP_MOMENTS:
        _arm_step(death)
    else:
        _arm_write(death)


def _arm_step(death: Death) -> None:
    import torch

    from kdcache.loader import Batch
    from kdcache.train.loop import TrainingLoop

    take_step = TrainingLoop._step

    def step(loop: TrainingLoop, batch: Batch) -> None:
        stands = loop.loader.state_dict()
        if stands["epoch"] * len(loop.loader) + stands["done"] != death.number:
            return take_step(loop, batch)
        if death.moment == "before the step":
            _die()
        if death.moment == "within the step":  # gradients are there, no weight has changed
            torch.optim.SGD.step = lambda *_, **__: _die()  # type: ignore[method-assign]
            torch.optim.Adam.step = lambda *_, **__: _die()  # type: ignore[method-assign]
        take_step(loop, batch)
        _die()

    TrainingLoop._step = step  # type: ignore[method-assign,assignment]


def _arm_write(death: Death) -> None:
    fsync, replace = os.fsync, os.replace
    left = int(death.number)

    def counted() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def torn_fsync(descriptor: int) -> None:
        if counted():
            with contextlib.suppress(OSError):  # a folder cannot be torn
                os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - CUT))
            _die()
        fsync(descriptor)

    def last_replace(source: Path, target: Path) -> None:
        dies = counted()
        if death.moment == "after rename" or not dies:
            replace(source, target)
        if dies:
            _die()

    if death.moment == "torn before fsync":
        os.fsync = torn_fsync  # type: ignore[assignment]
    else:
        os.replace = last_replace  # type: ignore[assignment]


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL cannot be survived")
