"""Precompute against the mentors' bare forward passes."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from benchmarks.material import Material, Settings, find_material
from benchmarks.paired import Budget, interleave, ratio, require_same, timed
from benchmarks.steps import synchronize
from benchmarks.table import Row, Skipped, number
from kdcache.devices import precision_context
from kdcache.mentors import MEMORY_FORMATS
from kdcache.precompute import PrecomputeJob


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """On the CPU in fp32."""
    yield from compare(settings, find_material(settings), torch.device("cpu"), "fp32")


def _named(precision: str) -> str:
    return "" if precision == "fp32" else f", {precision}"


def compare(
    settings: Settings, material: Material, device: torch.device, precision: str
) -> Iterator[Row | Skipped]:
    """A whole job of one view (views, forward passes, encoding, measuring errors, durable commits)
    against the networks alone on inputs that are ready."""
    shape = replace(settings.run_shape, precision=precision)
    batches = settings.size(full=2 if device.type == "cpu" else 64, quick=1)
    dataset = material.open(batches * shape.batch)
    mentors = material.load_mentors(dataset)
    numbers = count()

    def job() -> PrecomputeJob:
        return PrecomputeJob(
            dataset,
            mentors,
            store=settings.folder / f"{precision}-{next(numbers)}",
            views=1,
            device=device,
            batch_size=shape.batch,
            precision=precision,
        )

    first = job()
    store = first.run().store
    pixels = first.recipe(dataset.images(dataset.index_N), dataset.index_N, 0)
    memory_format = MEMORY_FORMATS[shape.memory_format]
    inputs = [
        [m.preprocessing(part.contiguous(memory_format=memory_format)) for m in mentors]
        for part in torch.split(torch.from_numpy(pixels).to(device), shape.batch)
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

    encoder = store.mentor(mentors[0].name).encoder
    for column, outputs in enumerate(zip(*bare(), strict=True)):
        targets = torch.cat(outputs).float().log_softmax(-1).cpu().numpy()
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
        what="precompute images/s / the bare forward passes'" + _named(precision),
        measured=ratio(seconds["bare"], seconds["precompute"]),
        budget=Budget(limit=0.95, aim=0.98),
        detail=(
            f"best {rates['precompute']} images/s against {rates['bare']}; {len(dataset)} images "
            f"of one view, passes of {shape.batch}, {shape.precision}; a new store each time; "
            f"{material}"
        ),
    )
