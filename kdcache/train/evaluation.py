"""Accuracy of a network on a dataset's images, unaugmented."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kdcache.datasets import SPLITS, ImageDataset, Preprocessing, open_dataset
from kdcache.devices import precision_context, resolve_device, send
from kdcache.errors import UsageError
from kdcache.factories import require_named
from kdcache.train.trained import find_trained

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Percent right at first, and among the first five; mean cross-entropy; number of samples."""

    top1: float
    top5: float
    loss: float
    samples: int


@torch.inference_mode()
def evaluate_network(
    network: torch.nn.Module,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    device: torch.device,
    precision: str = "fp32",
) -> Accuracy:
    """Runs `network` in eval mode over all of `dataset`; its mode is restored."""
    was_training = network.training
    network.eval()
    right_1 = right_5 = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    for start in range(0, len(dataset), BATCH):
        index_B = dataset.index_N[start : start + BATCH]
        images = preprocessing(send(torch.from_numpy(dataset.images(index_B)), device))
        labels_B = send(torch.from_numpy(dataset.labels(index_B)), device)
        with precision_context(device, precision):
            logits_BC = network(images).float()
        first_BK = logits_BC.topk(min(5, logits_BC.shape[1])).indices
        right_BK = first_BK == labels_B[:, None]
        right_1 = right_1 + right_BK[:, 0].sum()
        right_5 = right_5 + right_BK.sum()
        loss = loss + torch.nn.functional.cross_entropy(logits_BC, labels_B, reduction="sum")
    network.train(was_training)
    samples = len(dataset)
    return Accuracy(
        top1=100 * int(right_1) / samples,
        top5=100 * int(right_5) / samples,
        loss=float(loss) / samples,
        samples=samples,
    )


def evaluate_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    network: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    split: str = "test",
    device: str = "auto",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Accuracy of a student (a run folder or one of its files) or a mentor's checkpoint.

    What is not given comes from the file (`trained`), the dataset at last from its folder's name. A
    `module:factory` runs code, so it is only taken from the caller, never from a file. Returns
    network, dataset, split, and `Accuracy`'s fields. Raises CheckpointError or UsageError.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be {' or '.join(SPLITS)}, got {split!r}")
    file = find_trained(checkpoint)
    file.architecture(network)  # known, before a dataset is opened
    theirs = file.stated.get("dataset") or file.path.resolve().parent.name
    dataset_name = dataset or require_named(theirs, option="--dataset", origin=file.path)
    try:
        images = open_dataset(dataset_name, split, data_dir=data_dir)
    except UsageError as error:
        if dataset or "dataset" in file.stated:
            raise
        raise UsageError(
            f"{file.path} does not say its dataset; give --dataset. ({error})"
        ) from error
    trained = file.load(images, network)
    target = resolve_device(device)
    trained.network.to(target)
    accuracy = evaluate_network(trained.network, images, trained.preprocessing, target, precision)
    described = {"network": trained.architecture, "dataset": dataset_name, "split": split}
    return {**described, **asdict(accuracy)}
