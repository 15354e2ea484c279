"""What the benchmarks run on: CIFAR-100 and its trained mentors, or stand-ins that only keep time.

A forward pass costs the same whatever the weights are; only what encoding loses needs real mentors.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.mentor_library import SUFFIXES, library_stem
from kdcache.mentors import Mentor, RunShape, load_mentor
from kdcache.models import build_network
from kdcache.precompute import precompute_targets
from kdcache.store import TargetStore

REAL_MENTORS = ("r20", "r32", "r44", "r56")
LOADED_VIEWS = 3  # that a stream cycles through: of two both would stay in memory
CPU = torch.device("cpu")
STAND_IN_MENTORS = ("r8", "r14")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run of the benchmarks. `folder`: a temporary one; `data_dir`: None where there is none.

    `quick`: does everything work? Few rounds, small sizes; its numbers mean little.
    """

    folder: Path
    data_dir: Path | None = None
    repeats: int = 9
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """How much of something to use."""
        return quick if self.quick else full

    @property
    def run_shape(self) -> RunShape:
        """The default's; smaller passes when it is to be quick."""
        return RunShape(batch=64) if self.quick else RunShape()


@dataclass(frozen=True, kw_only=True)
class Material:
    """A dataset by name, its student, and its mentors by name with their checkpoints."""

    dataset: str
    data_dir: str | None
    student: str
    mentors: Mapping[str, Path]
    real: bool

    def open(self, samples: int) -> ImageDataset:
        """The first `samples` of the training split, balanced."""
        return open_dataset(self.dataset, data_dir=self.data_dir, samples=samples)

    def load_mentors(self, dataset: ImageDataset) -> list[Mentor]:
        """Fresh networks: a MentorPool changes those it is given."""
        return [load_mentor(name, dataset, path) for name, path in self.mentors.items()]

    def __str__(self) -> str:
        networks = f"student {self.student}, mentors {' '.join(self.mentors)}"
        if self.real:
            return f"{self.dataset}, {networks}"
        return f"STAND-IN: {self.dataset}, {networks} with random weights"


def mentored_store(
    settings: Settings,
    dataset: ImageDataset,
    mentors: Sequence[Mentor],
    *,
    views: int = LOADED_VIEWS,
    device: torch.device = CPU,
) -> TargetStore:
    """What these mentors say of a dataset, by the default encoder."""
    return precompute_targets(
        dataset,
        mentors,
        store=settings.folder / "store",
        views=views,
        device=device,
        batch_size=settings.run_shape.batch,
    )


def default_data_dir() -> Path | None:
    """`$KDCACHE_DATA`."""
    given = os.environ.get("KDCACHE_DATA")
    return Path(given).expanduser() if given else None


def find_material(settings: Settings) -> Material:
    """CIFAR-100 with its trained mentors where both are there, else digits and random weights."""
    if settings.data_dir is not None and (settings.data_dir / "cifar-100-python").is_dir():
        found = {
            name: path
            for name in REAL_MENTORS
            for suffix in SUFFIXES
            if (
                path := settings.data_dir / "mentors/cifar100" / f"{library_stem(name)}{suffix}"
            ).is_file()
        }
        if len(found) == len(REAL_MENTORS):
            return Material(
                dataset="cifar100",
                data_dir=str(settings.data_dir),
                student="r20",
                mentors=found,
                real=True,
            )
    checkpoints = {name: settings.folder / f"{name}.safetensors" for name in STAND_IN_MENTORS}
    num_classes = open_dataset("digits").num_classes
    for name, path in checkpoints.items():
        save_weights(path, build_network(name, num_classes, seed=0), {})
    return Material(dataset="digits", data_dir=None, student="r8", mentors=checkpoints, real=False)
