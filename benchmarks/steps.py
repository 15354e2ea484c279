"""Training steps as the training loop takes them, for measurements that want to look inside."""

import time
import warnings
from pathlib import Path

import torch

from benchmarks.material import Material
from kdcache.classroom import MentorLoss
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.loader import ReplayLoader
from kdcache.models import build_network
from kdcache.sources import TargetSource
from kdcache.train import TrainConfig
from kdcache.train.evaluation import make_evaluator
from kdcache.train.loop import TrainingLoop
from kdcache.train.run_folder import RunFolder
from kdcache.train.task_defaults import with_defaults

BATCH = 64


def make_loop(
    material: Material,
    dataset: ImageDataset,
    source: TargetSource,
    loss: MentorLoss,
    *,
    folder: Path,
    device: torch.device,
    compile: bool = False,
    precision: str = "fp32",
    batch_size: int = BATCH,
) -> TrainingLoop:
    """The loop of `train_student` for this source, with its task's defaults; nothing is written."""
    config = TrainConfig(
        **with_defaults(
            {
                "student": material.student,
                "dataset": material.dataset,
                "compile": compile,
                "precision": precision,
                "batch_size": batch_size,
            }
        )
    )
    test = open_dataset(material.dataset, "test", data_dir=material.data_dir)
    return TrainingLoop(
        config,
        network=build_network(material.student, dataset.num_classes, seed=0).train(),
        loader=ReplayLoader(dataset, source, batch_size, device=device),
        loss=loss,
        evaluator=make_evaluator(test, config, source.recipe),
        folder=RunFolder(folder),
        identity="benchmark",
    )


def run_epoch(loop: TrainingLoop, most_steps: int | None = None) -> int:
    """The next epoch's steps with their batches, up to `most_steps`; how many were taken."""
    taken = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few views go a long way here, on purpose
        for batch in loop.loader:
            loop._step(batch)
            taken += 1
            if taken == most_steps:
                break
    return taken


def epoch_seconds(loop: TrainingLoop) -> float:
    """Of one epoch, by the wall clock, until the device is done with it."""
    synchronize(loop.device)
    started = time.perf_counter()
    run_epoch(loop)
    synchronize(loop.device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Waits for an accelerator; the CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
