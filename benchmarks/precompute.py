"""Precompute against the mentors' bare forward passes, and what it holds in memory meanwhile."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from benchmarks.material import Material, Settings, find_material
from benchmarks.paired import Budget, Spread, interleave, ratio, require_same, timed
from benchmarks.steps import synchronize
from benchmarks.table import Row, Skipped, number
from kdcache.devices import precision_context
from kdcache.mentors import MEMORY_FORMATS
from kdcache.precompute import PrecomputeJob
from kdcache.running import MOST_BLOCKS_IN_FLIGHT
from kdcache.store import block_size


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """On the CPU in fp32: where encoding is cheap, and where it is dear and a block is encoded and
    compressed while the mentors run over the next."""
    material, device = find_material(settings), torch.device("cpu")
    batches = settings.size(full=2, quick=1)
    yield compare(settings, material, device, "fp32", batches=batches)
    yield compare(settings, material, device, "fp32", encoder="residual", batches=1, views=3)
    yield _in_flight()


def _named(precision: str) -> str:
    return "" if precision == "fp32" else f", {precision}"


def compare(
    settings: Settings,
    material: Material,
    device: torch.device,
    precision: str,
    *,
    encoder: str = "float16",
    batches: int,
    views: int = 1,
) -> Row:
    """A whole job (views, forward passes, encoding, measuring errors, durable commits) against the
    networks alone on inputs that are ready; of so many batches a view."""
    shape = replace(settings.run_shape, precision=precision)
    dataset = material.open(batches * shape.batch)
    mentors = material.load_mentors(dataset)
    labels_N = dataset.labels(dataset.index_N)
    numbers = count()

    def job() -> PrecomputeJob:
        return PrecomputeJob(
            dataset,
            mentors,
            store=settings.folder / f"{encoder}-{precision}-{next(numbers)}",
            views=views,
            encoder=encoder,
            device=device,
            batch_size=shape.batch,
            precision=precision,
        )

    first = job()
    store = first.run().store
    memory_format = MEMORY_FORMATS[shape.memory_format]
    inputs = [
        [m.preprocessing(part.contiguous(memory_format=memory_format)) for m in mentors]
        for view in range(views)
        for part in torch.split(
            torch.from_numpy(
                first.recipe(dataset.images(dataset.index_N), dataset.index_N, view)
            ).to(device),
            shape.batch,
        )
    ]

    @torch.inference_mode()
    def bare() -> list[list[torch.Tensor]]:
        with precision_context(device, precision):
            outputs = [
                [m.network(x) for m, x in zip(mentors, of_batch, strict=True)]
                for of_batch in inputs
            ]
        synchronize(device)
        return outputs

    for column, outputs in enumerate(zip(*bare(), strict=True)):
        name = mentors[column].name
        targets = torch.cat(outputs[-batches:]).float().log_softmax(-1).cpu().numpy()
        used = store.mentor(name).encoder
        expected = used.round_trip(used.encode(targets, labels_N), labels_N)
        stored = store.targets(views - 1, dataset.index_N, [name])[:, 0]
        require_same(np.array_equal(stored, expected), "the targets")

    def run_job() -> float:
        next_job = job()  # fits its encoders here, which takes passes of its own
        took = timed(next_job.run)()
        shutil.rmtree(next_job.root)
        return took

    seconds = interleave({"precompute": run_job, "bare": timed(bare)}, settings.repeats)
    images = views * len(dataset)
    rates = {name: number(images / min(times)) for name, times in seconds.items()}
    return Row(
        what=f"precompute images/s / the bare forward passes', {encoder}" + _named(precision),
        measured=ratio(seconds["bare"], seconds["precompute"]),
        budget=Budget(limit=0.95, aim=0.98),
        detail=(
            f"best {rates['precompute']} images/s against {rates['bare']}; {len(dataset)} images x "
            f"{views} views, passes of {shape.batch}, {shape.precision}; a new store each time, "
            f"the last block's writing overlaps nothing; {material}"
        ),
    )


def _in_flight() -> Row:
    """One block is computed while the most that may wait or be written do."""
    samples, mentors, classes = 50_000, 4, 100
    blocks = MOST_BLOCKS_IN_FLIGHT + 1
    megabytes = blocks * block_size(samples) * mentors * classes * 4 / 1e6
    return Row(
        what="float32 targets that a precompute holds at most",
        measured=Spread(median=megabytes, low=megabytes, high=megabytes, n=1),
        unit=" MB",
        detail=(
            f"counted, not timed: {blocks} blocks of {block_size(samples):,} samples, {mentors} "
            f"mentors x {classes} classes, as for CIFAR-100; encoding one mentor's block comes on "
            "top, on one thread"
        ),
    )
