"""The demo: the whole story on the bundled digits, ending in one table.

Two mentors are trained on labels, run once over every view, and a smaller student is trained three
times on those views: from labels only, from averaged mentors, and by ClassroomKD.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.datasets import open_dataset
from kdcache.errors import Stopped
from kdcache.inspection import inspect_store
from kdcache.mentors import load_mentor
from kdcache.precompute import PrecomputeJob
from kdcache.train.run_folder import RunFolder
from kdcache.train.student import train_student

DATASET = "digits"
MENTORS = ("r20", "r14")
STUDENT = "r8"
METHODS = ("ce", "average", "classroom")
MENTOR_EPOCHS = 20
EPOCHS = 20
VIEWS = 20
SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One line of the table."""

    what: str
    accuracy: float | None
    seconds: float
    bytes: int
    path: Path


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = print,
) -> list[DemoRow]:
    """Runs (or goes on with) the demo in folder `out`; tells its steps, then the table.

    Everything in it is real: bundled images, trained networks, measured seconds and bytes. Raises
    Stopped when asked to stop; the same call then goes on.
    """
    out = Path(out)
    common: dict[str, Any] = {"dataset": DATASET, "samples": SAMPLES, "seed": seed}
    rows = []
    for name in MENTORS:
        tell(f"training mentor {name} on the labels of {SAMPLES} {DATASET}")
        run = train_student(
            student=name,
            method="ce",
            epochs=MENTOR_EPOCHS,
            out=str(out / f"mentor-{name}"),
            should_stop=should_stop,
            **common,
        )
        rows.append(_finish(run, f"mentor {name}, labels only", out / f"mentor-{name}"))

    tell(f"running the mentors once over {VIEWS} views")
    rows.append(_precompute(out, seed, should_stop))

    for method in METHODS:
        tell(f"training student {STUDENT} by {method!r}")
        run = train_student(
            student=STUDENT,
            method=method,
            store=str(out / "store"),
            epochs=EPOCHS,
            out=str(out / f"student-{method}"),
            should_stop=should_stop,
            **common,
        )
        rows.append(_finish(run, f"student {STUDENT}, {method}", out / f"student-{method}"))
    _tell_table(rows, tell)
    return rows


def _precompute(out: Path, seed: int, should_stop: Callable[[], bool]) -> DemoRow:
    started = time.perf_counter()
    dataset = open_dataset(DATASET, samples=SAMPLES)
    mentors = [
        load_mentor(name, dataset, RunFolder(out / f"mentor-{name}").student) for name in MENTORS
    ]
    job = PrecomputeJob(dataset, mentors, store=out / "store", views=VIEWS, view_seed=seed)
    result = job.run(should_stop=should_stop)
    if result.stopped:
        raise Stopped(f"stopped; every finished block is committed in {job.root}")
    return DemoRow(
        what=f"store, {len(MENTORS)} mentors x {VIEWS} views",
        accuracy=None,
        seconds=time.perf_counter() - started,
        bytes=inspect_store(result.store)["bytes"],
        path=job.root,
    )


def _finish(run: Iterator[dict[str, Any]], what: str, folder: Path) -> DemoRow:
    for _ in run:
        pass
    files = RunFolder(folder)
    records = files.records()
    return DemoRow(
        what=what,
        accuracy=records[-1]["test_top1"],
        seconds=sum(record["seconds"] for record in records),
        bytes=files.student.stat().st_size,
        path=files.student,
    )


def _tell_table(rows: list[DemoRow], tell: Callable[[str], None]) -> None:
    width = max(len(row.what) for row in rows)
    tell(f"\n{'what':<{width}}  {'test top-1':>10}  {'seconds':>7}  {'kB':>6}  where")
    for row in rows:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.2f}"
        tell(
            f"{row.what:<{width}}  {accuracy:>10}  {row.seconds:>7.1f}  {row.bytes / 1000:>6.0f}  "
            f"{row.path}"
        )
