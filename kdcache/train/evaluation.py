"""Accuracy of a network on a dataset's images, unaugmented."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from kdcache.datasets import SPLITS, ImageDataset, Preprocessing, open_dataset
from kdcache.devices import precision_context, resolve_device, send
from kdcache.errors import UsageError, unknown_name
from kdcache.factories import require_named
from kdcache.heatmaps import QUARTER
from kdcache.tasks import CLASSIFICATION
from kdcache.train.pose_accuracy import evaluate_pose, metric_names, require_measurable
from kdcache.train.train_config import DECODERS, TrainConfig
from kdcache.train.trained import find_trained
from kdcache.views import Recipe

BATCH = 256
POSE_ALONE = (
    "--flip-test, --decoder and sizes of views are of heatmaps, which classifiers do not give. "
    "Leave them out"
)


class Evaluator(Protocol):
    """Numbers that say how good a network is on a test split."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of these numbers, the one that counts first."""
        ...

    def __call__(
        self, network: torch.nn.Module, device: torch.device, precision: str
    ) -> Mapping[str, float | None]:
        """The numbers by name; None for one that is not finite, or of nobody."""
        ...


def make_evaluator(test: ImageDataset, config: TrainConfig, recipe: Recipe) -> Evaluator:
    """Of the dataset's task; people are cut out as large as the recipe's views."""
    if test.task == CLASSIFICATION:
        return TopOfClasses(test)
    sides = recipe.describe()
    return JointsOfPeople(test, sides["height"], sides["width"], config.decoder, config.flip_test)


class TopOfClasses:
    """Top-1, top-5 and loss on unaugmented images."""

    names = ("top1", "top5", "loss")

    def __init__(self, test: ImageDataset) -> None:
        self._test = test

    def __call__(
        self, network: torch.nn.Module, device: torch.device, precision: str
    ) -> Mapping[str, float | None]:
        test = self._test
        found = asdict(evaluate_network(network, test, test.preprocessing, device, precision))
        return {**found, "loss": found["loss"] if math.isfinite(found["loss"]) else None}


class JointsOfPeople:
    """The official evaluators' numbers, on the annotated boxes."""

    def __init__(
        self, test: ImageDataset, height: int, width: int, decoder: str, flip_test: bool
    ) -> None:
        require_measurable(test)
        self.names = metric_names(test)
        self._test, self._height, self._width = test, height, width
        self._decoder, self._flip_test = decoder, flip_test

    def __call__(
        self, network: torch.nn.Module, device: torch.device, precision: str
    ) -> Mapping[str, float | None]:
        return evaluate_pose(
            network,
            self._test,
            self._test.preprocessing,
            device,
            precision,
            height=self._height,
            width=self._width,
            decoder=self._decoder,
            flip_test=self._flip_test,
        )


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
    decoder: str = QUARTER,
    flip_test: bool = False,
    recipe_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Accuracy of a student (a run folder or one of its files) or a mentor's checkpoint.

    What is not given comes from the file (`trained`), the dataset at last from its folder's name. A
    `module:factory` runs code, so it is only taken from the caller, never from a file. Returns
    network, dataset, split, and `Accuracy`'s fields; of a pose network height and width of its
    views, `pose_metrics`, samples. Raises CheckpointError or UsageError.
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
    if images.task == CLASSIFICATION and (flip_test or decoder != QUARTER or recipe_options):
        raise UsageError(POSE_ALONE)
    for name in recipe_options or {}:
        if name not in ("height", "width"):
            raise unknown_name("size of people's views", name, ("height", "width"))
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    trained = file.load(images, network)
    target = resolve_device(device)
    trained.network.to(target)
    described = {"network": trained.architecture, "dataset": dataset_name, "split": split}
    if images.task == CLASSIFICATION:
        accuracy = evaluate_network(
            trained.network, images, trained.preprocessing, target, precision
        )
        return {**described, **asdict(accuracy)}
    sides = file.sides(images, recipe_options or {})
    found = evaluate_pose(
        trained.network,
        images,
        trained.preprocessing,
        target,
        precision,
        decoder=decoder,
        flip_test=flip_test,
        **sides,
    )
    return {**described, **sides, **found, "samples": len(images)}
