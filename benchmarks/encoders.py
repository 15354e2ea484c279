"""Every encoder on the same real targets: bytes, what they lose, and what they cost in time.

The mentors run once, into a float32 store; the other stores are exported from it, which is shorter
and leaves no doubt that all hold the same targets.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fidelity import Loss, confidence, mean_loss, measure_loss
from benchmarks.material import Settings, find_material
from benchmarks.paired import Budget, Spread, interleave, spread, timed, verdict
from benchmarks.table import Row, Skipped, milliseconds, number
from benchmarks.thousand_classes import measure_thousand_classes
from kdcache.encode import ENCODERS, FITTED, Encoder
from kdcache.exporting import export_store
from kdcache.precompute import PrecomputeJob
from kdcache.resident import ResidentView
from kdcache.store import TargetStore, chunk_payload

BYTES = Budget(limit=81, aim=66, higher_is_better=False)
MOST_KL = 1e-4
NAMES = (*ENCODERS, *FITTED, "auto")
STUDENT = "r20"  # the weakest mentor stands in for a student where decisions are counted
BATCH = 128
WHAT = "bytes per (view, sample, mentor)"


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Stores of all mentors on 4 views of 10,000 images; then a stand-in for 1,000 classes.

    What is lost is measured on all rows of the last view, which no encoder was fitted on. Random
    networks would say nothing, so without the trained mentors there is no row.
    """
    material = find_material(settings)
    if not material.real:
        why = "needs trained mentors; set KDCACHE_DATA or give --data-dir"
        yield Skipped(what=f"{WHAT}, {', '.join(NAMES)}", why=why)
        return
    dataset = material.open(settings.size(full=10_000, quick=200))
    exact = (
        PrecomputeJob(
            dataset,
            material.load_mentors(dataset),
            store=settings.folder / "exact",
            views=settings.size(full=4, quick=2),
            encoder="float32",
            features=True,  # for the 1,000 classes; they cost no pass
            device="cpu",
            batch_size=settings.run_shape.batch,
        )
        .run()
        .store
    )
    stores = {"float32": exact}
    for name in NAMES:
        if name not in stores:
            stores[name] = export_store(exact, settings.folder / name, encoder=name)
    sizes = f"{len(dataset):,} images x {exact.num_views} views, {' '.join(exact.mentors)}"
    for name, store in stores.items():
        losses = _losses(exact, store)
        yield _bytes(store, name, losses, sizes)
        if name != "float32":
            yield _lost(store, name, losses)
    del stores["auto"]  # in time it is whatever it chose
    yield from _speeds(settings, exact, stores)
    yield from measure_thousand_classes(settings, exact)


def _losses(exact: TargetStore, store: TargetStore) -> dict[str, Loss]:
    """By mentor, of all rows of the last view."""
    view, labels_N = exact.num_views - 1, exact.labels_N
    student_N = confidence(exact.targets(view, exact.index_N, [STUDENT])[:, 0], labels_N)
    losses = {}
    for mentor in exact.mentors:
        exact_NC, decoded_NC = (
            one.targets(view, exact.index_N, [mentor])[:, 0] for one in (exact, store)
        )
        student = None if mentor == STUDENT else student_N
        losses[mentor] = measure_loss(exact_NC, decoded_NC, labels_N, student)
    return losses


def _bytes(store: TargetStore, name: str, losses: Mapping[str, Loss], sizes: str) -> Row:
    rows = store.num_samples * store.num_views
    each = {
        mentor: sum(r.bytes for r in store.mentor(mentor).commits.values()) / rows
        for mentor in store.mentors
    }
    files = [
        file.stat().st_size
        for mentor in store.mentors
        for file in store.mentor(mentor).array.folder.rglob("*")
        if file.is_file()
    ]
    measured = _once(float(np.mean(list(each.values()))))
    worst = max(loss.worst for loss in losses.values())
    chosen = {mentor: store.mentor(mentor).encoder.name for mentor in store.mentors}
    return Row(
        what=f"{WHAT}, {name}",
        measured=measured,
        unit=" B",
        budget=BYTES,
        note=verdict(measured, BYTES) if worst <= MOST_KL else f"KL above {MOST_KL:g}",
        detail=(
            ", ".join(
                f"{mentor} {number(value)}" + (f" ({chosen[mentor]})" if name == "auto" else "")
                for mentor, value in each.items()
            )
            + f"; all files of the logits {number(sum(files) / rows / len(each))}; {sizes}"
        ),
    )


def _lost(store: TargetStore, name: str, losses: Mapping[str, Loss]) -> Row:
    mean = mean_loss(list(losses.values()))
    recorded = {
        mentor: store.mentor(mentor).kind.combine_error_sums(
            record.error_sums for record in store.mentor(mentor).commits.values()
        )
        for mentor in store.mentors
    }
    stated = max(value for sums in recorded.values() for key, value in sums.items() if "kl" in key)
    return Row(
        what=f"largest mean KL of a mentor and temperature, {name}",
        measured=_once(max(loss.worst for loss in losses.values())),
        budget=Budget(limit=1e-3 if name == "coarse" else MOST_KL, higher_is_better=False),
        detail="\n    ".join(
            [
                f"mean of mentors, T = 1 / 4 / 12: {mean}; commit records say {stated:.1e} for all "
                "views",
                f"filter decisions that flip: {mean.p_mean:.1e} against a uniform student, "
                f"{mean.flips:.1e} against {STUDENT}",
                *(f"{mentor}: {loss}" for mentor, loss in losses.items()),
            ]
        ),
    )


def _speeds(
    settings: Settings, exact: TargetStore, stores: Mapping[str, TargetStore]
) -> Iterator[Row]:
    """Each side encodes, loads or decodes the same targets; encoders take turns."""
    last, cpu = exact.num_views - 1, torch.device("cpu")
    rows = exact.manifest.block_rows(0)
    index_B, labels_B = exact.index_N[rows], exact.labels_N[rows]
    targets = {name: exact.targets(last, index_B, [name])[:, 0] for name in exact.mentors}
    views = {name: ResidentView(store, store.mentors, cpu) for name, store in stores.items()}
    for view in views.values():
        view.load(last)
    batches = settings.size(full=200, quick=5)
    drawn = np.random.default_rng(0).choice(exact.index_N, (batches, BATCH))

    def encode(store: TargetStore) -> None:
        for name, targets_BC in targets.items():
            _payload(store.mentor(name).encoder, targets_BC, labels_B)

    def decode(view: ResidentView) -> None:
        for index in drawn:
            view[index]

    block_bytes = sum(array.nbytes for array in targets.values())
    view_bytes = block_bytes * exact.num_samples / len(index_B)
    of_each: dict[str, tuple[Callable[[str], Callable[[], object]], float]] = {
        "encoding and compressing": (lambda name: partial(encode, stores[name]), block_bytes),
        "loading a view: read, decompress, unpack": (
            lambda name: partial(views[name].load, last),
            view_bytes,
        ),
    }
    for what, (work, size) in of_each.items():
        seconds = interleave({name: timed(work(name)) for name in stores}, settings.repeats)
        for name, took in seconds.items():
            yield Row(
                what=f"{what}, {name}",
                measured=spread([size / one / 1e6 for one in took]),
                unit=" MB/s",
                detail=(
                    f"of float32 targets, so that encoders compare: {number(size / 1e6)} MB of "
                    f"{len(targets)} mentors in {milliseconds(min(took))} at best; one thread"
                ),
            )
    seconds = interleave({n: timed(partial(decode, v)) for n, v in views.items()}, settings.repeats)
    for name, took in seconds.items():
        yield Row(
            what=f"gathering and decoding {BATCH} x {len(targets)} rows, {name}",
            measured=spread([1000 * one / batches for one in took]),
            unit=" ms",
            detail=f"random samples of a resident view, {views[name].num_bytes / 1e6:.1f} MB of it",
        )


def _payload(
    encoder: Encoder, targets_BC: NDArray[np.float32], labels_B: NDArray[np.int64]
) -> None:
    chunk_payload(encoder.encode(targets_BC, labels_B), len(targets_BC), encoder)


def _once(value: float) -> Spread:
    """Counted, not timed."""
    return Spread(median=value, low=value, high=value, n=1)
