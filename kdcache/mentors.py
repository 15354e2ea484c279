"""Mentors: frozen networks with their identity, run in one recorded shape.

A forward pass is bit-identical whatever the neighbours in a batch of the same shape, and differs
by up to 2e-5 for other shapes, memory formats or devices. So precompute and online training share
one function, `MentorPool.run`, and one `RunShape`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.checkpoints import file_sha256, load_weights, read_metadata
from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.devices import PRECISIONS, precision_context, send
from kdcache.encode import TargetKind, primary_of
from kdcache.errors import UsageError, unknown_name
from kdcache.heatmaps import mirror_back
from kdcache.mentor_library import (
    by_one_name,
    find_checkpoint,
    mentor_name,
    sidecar_preprocessing,
)
from kdcache.models import OUTPUTS, build_network, checked_forward, long_name, require_output
from kdcache.models.pooled_features import FeatureTap
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.views import Recipe

SMALLEST_RUN = 64
LARGEST_RUN = 8192
_Result = TypeVar("_Result")
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """How forward passes are made; recorded, since it decides the last bits.

    `batch`: every pass has exactly this many rows, the last one padded. `flip_test`: heatmaps are
    the mean of the view's and of its mirror image's, flipped back (SimpleBaseline, arXiv
    1804.06208, section 3).
    """

    precision: str = "fp32"
    batch: int = 256
    memory_format: str = "channels_last"
    flip_test: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.memory_format not in MEMORY_FORMATS:
            raise UsageError(
                f"precision must be one of {', '.join(PRECISIONS)} and memory format one of "
                f"{', '.join(MEMORY_FORMATS)}, got {self.precision!r}, {self.memory_format!r}"
            )
        if type(self.flip_test) is not bool:
            raise UsageError(f"flip_test must be true or false, got {self.flip_test!r:.40}")
        if type(self.batch) is not int or not SMALLEST_RUN <= self.batch <= LARGEST_RUN:
            raise UsageError(
                f"mentors run in batches of at least {SMALLEST_RUN} (smaller ones round "
                f"differently) and at most {LARGEST_RUN} (a block has no more), got {self.batch!r}"
            )

    def describe(self) -> dict[str, Any]:
        """As JSON; what is off is not mentioned, as before it was there."""
        return {key: value for key, value in asdict(self).items() if value is not False}

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> "RunShape":
        """Raises UsageError for what `describe` never gave."""
        try:
            return cls(**described)
        except TypeError as error:
            raise UsageError(f"{dict(described)} is no run shape of mentors ({error})") from error


def default_run_shape(task: str) -> RunShape:
    """Smaller passes for people: 256 of their views have as many pixels as 12,000 of CIFAR's."""
    return RunShape(batch=SMALLEST_RUN) if task == POSE else RunShape()


@dataclass(frozen=True, kw_only=True, eq=False)
class Mentor:
    """A frozen network that teaches, and what identifies it.

    `task`: what it was trained for. `mirrored`: of a pose network, which joint is which in a mirror
    (`Skeleton.mirrored`). `trained_on`: height and width of the views of people that it was trained
    on, where its checkpoint says so.
    """

    name: str
    architecture: str
    network: torch.nn.Module
    num_classes: int
    preprocessing: Preprocessing
    checkpoint_sha256: str
    task: str = CLASSIFICATION
    mirrored: tuple[int, ...] = ()
    trained_on: tuple[int, int] | None = None

    def of_other_views(self, recipe: Recipe) -> str | None:
        """A warning for a pose network that was trained on views of another size."""
        described = recipe.describe()
        here = described.get("height"), described.get("width")
        if self.trained_on is None or self.trained_on == here:
            return None
        height, width = self.trained_on
        return (
            f"mentor {self.name} was trained on views of {height} x {width}, these are "
            f"{here[0]} x {here[1]}: it will hardly know them. Give --recipe-option "
            f"height={height} --recipe-option width={width}, or another --checkpoint"
        )

    def identity(self) -> dict[str, Any]:
        """Everything but the run shape that decides what this mentor says."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "checkpoint_sha256": self.checkpoint_sha256,
            "preprocessing": self.preprocessing.describe(),
        }


def load_mentor(
    name: str, dataset: ImageDataset, checkpoint: str | os.PathLike[str] | None = None
) -> Mentor:
    """The mentor `name` (short or long) trained for `dataset`, on the CPU, in eval mode.

    Its weights come from `checkpoint`, else the mentor library, else `$KDCACHE_DATA/mentors`; its
    preprocessing from the sidecar JSON beside them, else the dataset's. Raises UsageError for an
    unknown name, CheckpointError for a missing or foreign checkpoint.
    """
    require_output(
        f"mentor {name!r}",
        name,
        OUTPUTS[dataset.task],
        remedy="Choose a mentor made for this dataset with --mentors",
    )
    path = Path(checkpoint) if checkpoint is not None else find_checkpoint(name, dataset.name)
    network = build_network(name, dataset.num_classes)
    load_weights(network, path)
    network.eval().requires_grad_(False)
    return Mentor(
        name=mentor_name(name),
        architecture=long_name(name),
        network=network,
        num_classes=dataset.num_classes,
        preprocessing=sidecar_preprocessing(path, len(dataset.preprocessing.mean))
        or dataset.preprocessing,
        checkpoint_sha256=file_sha256(path),
        task=dataset.task,
        trained_on=_stated_size(path),
        mirrored=dataset.person_labels.people.skeleton.mirrored if dataset.task == POSE else (),
    )


def _stated_size(path: Path) -> tuple[int, int] | None:
    stated = read_metadata(path)
    try:
        return int(stated["height"]), int(stated["width"])
    except (KeyError, ValueError):
        return None


def load_mentors(
    names: Sequence[str],
    dataset: ImageDataset,
    checkpoints: Mapping[str, str | os.PathLike[str]] | None = None,
) -> list[Mentor]:
    """Several mentors; `checkpoints` by short or long name, where not in the library.

    Every name is known before the first checkpoint is read. Errors as `load_mentor`'s; UsageError
    for a mentor with two checkpoints.
    """
    given = by_one_name((checkpoints or {}).items())
    known = [mentor_name(name) for name in names]
    return [load_mentor(name, dataset, given.get(name)) for name in known]


class MentorPool:
    """Several mentors on one device, run together over the same pixels."""

    def __init__(
        self,
        mentors: Sequence[Mentor],
        *,
        device: torch.device,
        run_shape: RunShape,
    ) -> None:
        self.mentors = tuple(mentors)
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"a mentor is named twice: {', '.join(self.names)}")
        if len(tasks := {mentor.task for mentor in mentors}) > 1:
            raise UsageError(f"these mentors are for {' and '.join(sorted(tasks))}; choose one")
        if run_shape.flip_test and tasks == {CLASSIFICATION}:
            raise UsageError("flip_test averages heatmaps, and these mentors give logits")
        self.device = device
        self.run_shape = run_shape
        self._memory_format = MEMORY_FORMATS[run_shape.memory_format]
        for mentor in mentors:
            # torch's stubs lack the keyword-only form of Module.to.
            mentor.network.to(device=device, memory_format=self._memory_format)  # type: ignore[call-overload]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(mentor.name for mentor in self.mentors)

    def run(
        self, pixels_BCHW: NDArray[np.uint8], names: Sequence[str] | None = None
    ) -> torch.Tensor:
        """The primary targets of these pixels, float32 on the device: log-probabilities (B, M, C),
        or heatmaps (B, M, J, H, W).

        `pixels_BCHW`: uint8, any B; it is cut into passes of the recorded batch, the last padded
        with zeros. `names`: which mentors, in which order; None: all.
        """
        chosen = self.names if names is None else names
        wanted = [(name, self.primary) for name in chosen]
        return torch.stack(self.targets(pixels_BCHW, wanted), dim=1)

    @property
    def primary(self) -> TargetKind:
        """The kind of targets that each of them gives."""
        return primary_of(self.mentors[0].task)

    @torch.inference_mode()
    def targets(
        self, pixels_BCHW: NDArray[np.uint8], wanted: Sequence[tuple[str, TargetKind]]
    ) -> list[torch.Tensor]:
        """Targets of any kinds, one float32 tensor (B, *row) on the device for each wanted.

        Each mentor runs once over each pass of the pixels, which are cut as `run` cuts them,
        whatever is wanted of it. Raises UsageError for a network that does not suit.
        """
        batch = self.run_shape.batch
        starts = range(0, len(pixels_BCHW), batch) or range(1)
        passes = [self._run_once(pixels_BCHW[start : start + batch], wanted) for start in starts]
        return [torch.cat(rows) for rows in zip(*passes, strict=True)]

    @torch.inference_mode()
    def feature_width(self, name: str, pixels_1CHW: NDArray[np.uint8]) -> int:
        """How many pooled features a mentor has. Raises UsageError for one without."""
        (mentor,) = self._choose([name])
        pixels = torch.from_numpy(pixels_1CHW).to(self.device, memory_format=self._memory_format)
        with precision_context(self.device, self.run_shape.precision):
            features_BF = _forward(mentor, mentor.preprocessing(pixels), tapped=True)[1]
        assert features_BF is not None
        return features_BF.shape[1]

    def _run_once(
        self, pixels_BCHW: NDArray[np.uint8], wanted: Sequence[tuple[str, TargetKind]]
    ) -> list[torch.Tensor]:
        rows = len(pixels_BCHW)
        padding = ((0, self.run_shape.batch - rows), (0, 0), (0, 0), (0, 0))
        padded = np.pad(pixels_BCHW, padding) if padding[0][1] else pixels_BCHW
        # Sent as they are, put into the memory format there: neither waits for the device.
        pixels = send(torch.from_numpy(padded), self.device)
        pixels = pixels.contiguous(memory_format=self._memory_format)
        inputs: dict[Preprocessing, torch.Tensor] = {}
        targets: dict[tuple[str, TargetKind], torch.Tensor] = {}
        for mentor in self._choose(list(dict.fromkeys(name for name, _ in wanted))):
            kinds = [kind for name, kind in wanted if name == mentor.name]
            with precision_context(self.device, self.run_shape.precision):
                if mentor.preprocessing not in inputs:
                    inputs[mentor.preprocessing] = mentor.preprocessing(pixels)
                images = inputs[mentor.preprocessing]
                output = _forward(mentor, images, tapped=any(kind.from_features for kind in kinds))
                if self.run_shape.flip_test:
                    output = _with_mirror_image(mentor, images, output[0]), None
            for kind in kinds:
                targets[mentor.name, kind] = kind.from_forward(*output)[:rows]
        return [targets[key] for key in wanted]

    def _choose(self, names: Sequence[str] | None) -> Sequence[Mentor]:
        if names is None:
            return self.mentors
        by_name = {mentor.name: mentor for mentor in self.mentors}
        for name in names:
            if name not in by_name:
                raise unknown_name("mentor of this pool", name, by_name)
        return [by_name[name] for name in names]


def _forward(
    mentor: Mentor, images_BCHW: torch.Tensor, *, tapped: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One forward pass: raw output (B, C), and, where `tapped`, pooled features (B, F)."""
    what = f"mentor {mentor.name!r} ({mentor.architecture})"
    tap = _about(what, lambda: FeatureTap(mentor.network, mentor.num_classes)) if tapped else None
    with tap or nullcontext():
        output = checked_forward(
            what,
            mentor.network,
            images_BCHW,
            mentor.num_classes,
            output=OUTPUTS[mentor.task],
            remedy="Choose a mentor made for this dataset with --mentors",
        )
    return output, None if tap is None else _about(what, lambda: tap.features_BF)


def _with_mirror_image(
    mentor: Mentor, images_BCHW: torch.Tensor, heatmaps_BJHW: torch.Tensor
) -> torch.Tensor:
    """The mean with what the mentor says of the mirror images, flipped back."""
    mirrored, _ = _forward(mentor, images_BCHW.flip(-1), tapped=False)
    return (heatmaps_BJHW + mirror_back(mirrored, mentor.mirrored)) / 2


def _about(what: str, call: Callable[[], _Result]) -> _Result:
    """What `call` gives; its UsageError begins with what it is about."""
    try:
        return call()
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error
