"""A sweep: several students trained side by side in one process, from one view in memory.

    for config, record in kdcache.train_sweep(TrainConfig(seed=s, store="S") for s in range(5)):
        ...

Students take turns, an epoch each, and all learn from a view before the next one is needed. So the
targets are read once however many students there are, and the memory for them is one stream's:
runs share a stream where store, mentors, views and kinds of targets are the same, and datasets
where name and folder are. With a window each student reads its own order for itself; the memory is
one window's still. Each student is exactly the one it would be alone: seeds, methods,
switches, networks, batch sizes and rates may differ. Live mentors (`targets="online"`) are not
shared.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError
from kdcache.train.loop import Progress
from kdcache.train.shared import Shared
from kdcache.train.student import StudentRun
from kdcache.train.train_config import TrainConfig


def train_sweep(
    configs: Iterable[TrainConfig],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda done, total: None,
) -> Generator[tuple[TrainConfig, dict[str, Any]], None, None]:
    """Trains a student a config and yields (config, record), an epoch of each in turn.

    Every run is checked before the first step. Each has its own folder, and is gone on with where
    it was left, as by `train_student`; those that are behind come first. What ends one run (an
    error, `should_stop`) ends the sweep; all of it can be gone on with, together or one by one.

    Errors as `train_student`'s; UsageError for no config, or two with the same run folder.
    """
    given = list(configs)
    if not given:
        raise UsageError("a sweep needs at least one config")
    folders = [Path(config.run_folder).resolve() for config in given]
    for position, folder in enumerate(folders):
        if folder in folders[:position]:
            raise UsageError(
                f"two runs of the sweep have the run folder {given[position].run_folder}; give "
                "each its own (out)"
            )
    shared = Shared()
    told: set[str] = set()

    def tell_once(message: str) -> None:
        if message not in told:
            told.add(message)
            notify(message)

    runs = [StudentRun(config, shared, tell_once) for config in given]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.begun())
        turns = [
            (run, config, run.records(should_stop, progress))
            for run, config in zip(runs, given, strict=True)
        ]
        while turns:
            turn = min(turns, key=lambda turn: -1 if turn[0].finished else turn[0].epochs_done)
            _, config, records = turn
            record = next(records, None)
            if record is None:
                turns.remove(turn)
            else:
                yield config, record
