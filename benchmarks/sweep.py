"""Students side by side in one process against one after another: what they share is read once."""

import shutil
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import synthetic
from benchmarks.material import Settings, find_material, mentored_store
from benchmarks.paired import interleave, ratio, timed
from benchmarks.steps import BATCH
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.store import TargetStore
from kdcache.stream import TargetStream
from kdcache.train import TrainConfig, train_student, train_sweep

STUDENTS = 4
VIEWS = 2


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Reading alone, then whole runs."""
    samples = settings.size(full=50_000, quick=1_000)
    yield _reading(
        settings,
        synthetic.make_store(
            settings.folder / "synthetic",
            samples,
            mentors=4,
            views=VIEWS,
            blocks=7,
            same_chunks=True,
        ),
    )
    # Digits: evaluating on 10,000 images would be most of a run of eight steps.
    material = find_material(replace(settings, data_dir=None))
    few = settings.size(full=4 * BATCH, quick=BATCH)  # a step costs the same either way
    dataset = material.open(few)
    store = mentored_store(settings, dataset, material.load_mentors(dataset), views=VIEWS)
    common = TrainConfig(
        student=material.student,
        dataset=material.dataset,
        data_dir=material.data_dir,
        store=str(store.root),
        samples=few,
        epochs=VIEWS,
        eval_every=VIEWS,
        device="cpu",
    )
    out = settings.folder / "runs"
    configs = [replace(common, seed=s, out=str(out / f"s{s}")) for s in range(STUDENTS)]

    def one_after_another() -> None:
        shutil.rmtree(out, ignore_errors=True)
        for config in configs:
            list(train_student(config))

    def side_by_side() -> None:
        shutil.rmtree(out, ignore_errors=True)
        list(train_sweep(configs))

    seconds = interleave(
        {"sweep": timed(side_by_side), "single": timed(one_after_another)}, settings.repeats
    )
    yield Row(
        what=f"sweep of {STUDENTS} students / {STUDENTS} single runs",
        measured=ratio(seconds["sweep"], seconds["single"]),
        detail=(
            f"best {milliseconds(min(seconds['sweep']))} against "
            f"{milliseconds(min(seconds['single']))}; {VIEWS} epochs of {few // BATCH} steps, "
            f"opening, proof, evaluation and checkpoints included; {material}"
        ),
    )


def _reading(settings: Settings, store: TargetStore) -> Row:
    """Every view loaded and gathered by every student."""
    index_N = store.index_N
    batches = [index_N[start : start + BATCH] for start in range(0, len(index_N), BATCH)]
    held: dict[str, int] = {}

    def read(streams: list[TargetStream], students: int, name: str) -> None:
        held[name] = 0
        for stream in streams:
            for view in stream.views:
                with stream.view(view) as targets:
                    held[name] += targets.num_bytes
                    for _ in range(students):
                        for index_B in batches:
                            targets[index_B]

    def streams(count: int) -> list[TargetStream]:
        return [TargetStream(store, device=torch.device("cpu")) for _ in range(count)]

    seconds = interleave(
        {
            "sweep": timed(lambda: read(streams(1), STUDENTS, "sweep")),
            "single": timed(lambda: read(streams(STUDENTS), 1, "single")),
        },
        settings.repeats,
    )
    megabytes = {name: count / 1e6 for name, count in held.items()}
    return Row(
        what=f"reading for a sweep of {STUDENTS} / for {STUDENTS} single runs",
        measured=ratio(seconds["sweep"], seconds["single"]),
        detail=(
            f"best {milliseconds(min(seconds['sweep']))} against "
            f"{milliseconds(min(seconds['single']))}; loaded and gathered; in memory at "
            "the same time "
            f"{megabytes['sweep']:.1f} MB of views against "
            f"{megabytes['single']:.1f} MB; {VIEWS} views of {len(index_N)} samples"
        ),
    )
