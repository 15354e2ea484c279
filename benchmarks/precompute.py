"""Precompute against the mentors' bare forward passes."""

import shutil
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch

from benchmarks.material import Settings, find_material
from benchmarks.paired import Budget, interleave, ratio, require_same, timed
from benchmarks.table import Row, Skipped, number
from kdcache.mentors import MEMORY_FORMATS
from kdcache.precompute import PrecomputeJob


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """A whole job of one view (views, forward passes, encoding, measuring errors, durable commits)
    against the networks alone on inputs that are ready."""
    material = find_material(settings)
    shape = settings.run_shape
    dataset = material.open(settings.size(full=2, quick=1) * shape.batch)
    mentors = material.load_mentors(dataset)
    numbers = count()

    def job() -> PrecomputeJob:
        return PrecomputeJob(
            dataset,
            mentors,
            store=settings.folder / f"store{next(numbers)}",
            views=1,
            device="cpu",
            batch_size=shape.batch,
        )

    first = job()
    store = first.run().store
    pixels = first.recipe(dataset.images(dataset.index_N), dataset.index_N, 0)
    memory_format = MEMORY_FORMATS[shape.memory_format]
    inputs = [
        [m.preprocessing(part.contiguous(memory_format=memory_format)) for m in mentors]
        for part in torch.split(torch.from_numpy(pixels), shape.batch)
    ]

    @torch.inference_mode()
    def bare() -> list[list[torch.Tensor]]:
        return [
            [m.network(x) for m, x in zip(mentors, of_batch, strict=True)] for of_batch in inputs
        ]

    encoder = store.mentor(mentors[0].name).encoder
    for column, outputs in enumerate(zip(*bare(), strict=True)):
        targets = torch.cat(outputs).log_softmax(-1).numpy()
        expected = encoder.decode(torch.from_numpy(encoder.encode(targets))).numpy()
        stored = store.targets(0, dataset.index_N, [mentors[column].name])[:, 0]
        require_same(np.array_equal(stored, expected), "the targets")

    def run_job() -> float:
        next_job = job()
        took = timed(next_job.run)()
        shutil.rmtree(next_job.root)
        return took

    seconds = interleave({"precompute": run_job, "bare": timed(bare)}, settings.repeats)
    rates = {name: number(len(dataset) / min(times)) for name, times in seconds.items()}
    yield Row(
        what="precompute images/s / the bare forward passes'",
        measured=ratio(seconds["bare"], seconds["precompute"]),
        budget=Budget(limit=0.95, aim=0.98),
        detail=(
            f"best {rates['precompute']} images/s against {rates['bare']}; {len(dataset)} images "
            f"of one view, passes of {shape.batch}, {shape.precision}; a new store each time; "
            f"{material}"
        ),
    )
