"""Accuracy of a network on a dataset's images, unaugmented."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.checkpoints import load_weights, read_metadata
from kdcache.datasets import SPLITS, ImageDataset, Preprocessing, open_dataset
from kdcache.devices import precision_context, resolve_device
from kdcache.errors import CheckpointError, UsageError
from kdcache.factories import require_named
from kdcache.mentors import sidecar_preprocessing
from kdcache.models import build_network, long_name
from kdcache.untrusted import parse_json

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
        images = preprocessing(torch.from_numpy(dataset.images(index_B)).to(device))
        labels_B = torch.from_numpy(dataset.labels(index_B)).to(device)
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
    """Accuracy of a student (a run folder or its student.safetensors) or a mentor's checkpoint.

    What is not given comes from the file: our safetensors carry network, dataset and
    preprocessing; a mentor's are its file name, its folder's name and its sidecar. A
    `module:factory` runs code, so it is only taken from the caller, never from a file. Returns
    network, dataset, split, and `Accuracy`'s fields. Raises CheckpointError or UsageError.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be {' or '.join(SPLITS)}, got {split!r}")
    path = Path(checkpoint).expanduser()
    if (path / "config.toml").exists():
        path = path / "student.safetensors"
        if not path.exists():
            raise CheckpointError(
                f"{path.parent} is a run that is not finished; give its train command again"
            )
    stated = read_metadata(path)
    theirs = stated.get("architecture") or path.stem
    architecture = long_name(network or require_named(theirs, option="--network", origin=path))
    theirs = stated.get("dataset") or path.resolve().parent.name
    dataset_name = dataset or require_named(theirs, option="--dataset", origin=path)
    try:
        images = open_dataset(dataset_name, split, data_dir=data_dir)
    except UsageError as error:
        if dataset or "dataset" in stated:
            raise
        raise UsageError(f"{path} does not say its dataset; give --dataset. ({error})") from error
    channels = len(images.preprocessing.mean)
    preprocessing = (
        _stated_preprocessing(path, stated["preprocessing"], channels)
        if "preprocessing" in stated
        else sidecar_preprocessing(path, channels) or images.preprocessing
    )
    module = build_network(architecture, images.num_classes)
    load_weights(module, path)
    target = resolve_device(device)
    module.to(target)
    accuracy = evaluate_network(module, images, preprocessing, target, precision)
    return {"network": architecture, "dataset": dataset_name, "split": split, **asdict(accuracy)}


def _stated_preprocessing(path: Path, text: str, channels: int) -> Preprocessing:
    try:
        return Preprocessing.from_description(parse_json(text.encode()), channels)
    except ValueError as error:
        raise CheckpointError(
            f"{path} states its preprocessing wrongly ({error}). Take it from where it was made"
        ) from error
