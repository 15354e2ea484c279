"""Where the time of a training step from the store goes, part by part.

The loop's own parts are wrapped by stopwatches; what is left of a step without them is the backward
pass (and a few microseconds of bookkeeping). On the CPU, where a call returns when it is done.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.material import Settings, find_material, mentored_store
from benchmarks.paired import spread
from benchmarks.steps import BATCH, make_loop, run_epoch
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.classroom import ClassroomLoss
from kdcache.stream import TargetStream
from kdcache.train.loop import TrainingLoop

PARTS = (
    "pixels: crop and flip",
    "targets: gather and decode",
    "rest of the batch",
    "student, forward",
    "loss, forward",
    "backward of both",
    "optimiser",
    "records and finite check",
)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Shares of whole epochs, without evaluation and checkpoint."""
    device = torch.device("cpu")
    material = find_material(settings)
    dataset = material.open(settings.size(full=1024, quick=2 * BATCH))
    store = mentored_store(settings, dataset, material.load_mentors(dataset), device=device)
    stream = TargetStream(store, list(material.mentors), device)
    loop = make_loop(
        material, dataset, stream, ClassroomLoss(), folder=settings.folder / "none", device=device
    )
    watch = _Stopwatch(loop)
    run_epoch(loop)  # a warm-up
    shares: dict[str, list[float]] = defaultdict(list)
    steps_seconds: list[float] = []
    for _ in range(settings.repeats):
        watch.clear()
        started = time.perf_counter()
        steps = run_epoch(loop)
        whole = time.perf_counter() - started
        steps_seconds.append(whole / steps)
        for part, seconds in watch.parts(whole).items():
            shares[part].append(100 * seconds / whole)
    for part in PARTS:
        yield Row(what=f"of a step, {part}", measured=spread(shares[part]), unit="%")
    yield Row(
        what="  a step from the store, ms",
        measured=spread([1000 * seconds for seconds in steps_seconds]),
        detail=f"{milliseconds(min(steps_seconds))} at best; batch {BATCH}; {material}",
    )


class _Stopwatch:
    """Seconds spent in the parts of a loop, which it wraps."""

    def __init__(self, loop: TrainingLoop) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        source: Any = loop.loader.source
        view = source.view

        def watched_view(number: int) -> Any:
            context = view(number)
            enter = context.__enter__

            def watched() -> Any:
                return _Watched(self, enter())

            return _Context(watched, context.__exit__)

        source.view = watched_view
        loader: Any = loop.loader
        loader._pixels = self._timed("pixels: crop and flip", loader._pixels)
        every: Any = loop
        every._step = self._timed("step", every._step)
        every._forward = self._timed("student, forward", every._forward)
        every._call_loss = self._timed("loss, forward", every._call_loss)
        every._optimizer.step = self._timed("optimiser", every._optimizer.step)
        records = "records and finite check"
        every._tally.add = self._timed(records, every._tally.add)
        every._watch.see = self._timed(records, every._watch.see)

    def clear(self) -> None:
        """Begins another epoch."""
        self._seconds.clear()

    def parts(self, whole: float) -> dict[str, float]:
        """The seconds of each of `PARTS` in an epoch that took `whole` seconds."""
        found = self._seconds
        of_step = [part for part in PARTS[3:] if part in found]
        of_batch = PARTS[0], PARTS[1]
        return {
            **{part: found[part] for part in (*of_batch, *of_step)},
            PARTS[2]: whole - found["step"] - sum(found[part] for part in of_batch),
            PARTS[5]: found["step"] - sum(found[part] for part in of_step),
        }

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self._seconds[part] += time.perf_counter() - started

        return timed


class _Context:
    def __init__(self, enter: Callable[[], Any], leave: Callable[..., Any]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> Any:
        return self._enter()

    def __exit__(self, *exception: Any) -> Any:
        return self._leave(*exception)


class _Watched:
    """A view's targets, timed."""

    def __init__(self, watch: _Stopwatch, targets: Any) -> None:
        self._targets = targets
        self.gather_targets = watch._timed(PARTS[1], targets.gather_targets)

    def __getitem__(self, index_B: Any) -> Any:
        return self.gather_targets(index_B).logits
