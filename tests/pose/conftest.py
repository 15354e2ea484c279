"""A tiny pose dataset in COCO's official format, two mentors that say something, and their store.

Everything of the session is only read: a test that damages a store takes a copy.
"""

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import kdcache
from benchmarks.stick_figures import gradients
from benchmarks.stick_people import write_split
from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import HEATMAPS
from kdcache.mentors import load_mentor
from kdcache.models import build_network
from kdcache.store import TargetStore, open_store
from kdcache.views import PoseAffine

MENTORS = ("lp18", "mbpose")
RECIPE = PoseAffine(height=64, width=64, half_body=0.3, jitter=0.1)
VIEWS = 2
BLOCK = 12  # samples a chunk: two chunks of 24 people
Run = Callable[..., Generator[dict[str, Any], None, None]]


@pytest.fixture(scope="session")
def sticks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 24 training and 8 test people, articulated stick figures."""
    folder = tmp_path_factory.mktemp("sticks")
    write_split(folder, "train2017", 24, 1, gradients)
    write_split(folder, "val2017", 8, 1, gradients)
    return folder


@pytest.fixture(scope="session")
def people(sticks: Path) -> ImageDataset:
    return open_dataset("coco-keypoints", data_dir=sticks)


@pytest.fixture(scope="session")
def real_people() -> Callable[[str, str], ImageDataset]:
    """Opens a split of the real people, "coco-keypoints" or "mpii"; skips without them."""
    folder = os.environ.get("KDCACHE_DATA")

    def opened(name: str, split: str) -> ImageDataset:
        place = {"coco-keypoints": "coco", "mpii": "mpii"}[name]
        if folder is None or not (Path(folder) / place).is_dir():
            pytest.skip(f"KDCACHE_DATA names no folder with {place}, the real people")
        return open_dataset(name, split, data_dir=folder)

    return opened


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, people: ImageDataset) -> dict[str, str]:
    """Checkpoints by name: untrained networks whose maps are scaled to peaks of about 1.

    Real forward passes, and confidences above 0, so that a knowledge filter has what to decide.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    index = people.index_N
    pixels = people.preprocessing(torch.from_numpy(RECIPE(people.images(index), index, 0)))
    files = {}
    for seed, name in enumerate(MENTORS):
        network = build_network(name, 17, seed=seed).eval()
        with torch.no_grad():
            peak = network(pixels).amax((2, 3)).mean()
            network.get_parameter("final_layer.weight").div_(peak)
        save_weights(folder / f"{name}.safetensors", network, {})
        files[name] = str(folder / f"{name}.safetensors")
    return files


def precomputed(
    root: Path, people: ImageDataset, checkpoints: dict[str, str], **options: Any
) -> TargetStore:
    """A store of both mentors in small blocks."""
    mentors = [load_mentor(name, people, checkpoints[name]) for name in MENTORS]
    given = {"recipe": RECIPE, "views": VIEWS, "device": "cpu", **options}
    with small_blocks():
        return kdcache.precompute_targets(people, mentors, store=root, **given)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Within it new stores of heatmaps have blocks of 12 samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(HEATMAPS), "most_block", BLOCK)
        yield


@pytest.fixture(scope="session")
def exact_store(
    tmp_path_factory: pytest.TempPathFactory, people: ImageDataset, checkpoints: dict[str, str]
) -> TargetStore:
    """Both mentors in float32. Only to be read."""
    root = tmp_path_factory.mktemp("stores") / "exact"
    return precomputed(root, people, checkpoints, encoder="float32")


@pytest.fixture(scope="session")
def small_store(
    tmp_path_factory: pytest.TempPathFactory, people: ImageDataset, checkpoints: dict[str, str]
) -> TargetStore:
    """Both mentors in heatmap8. Only to be read."""
    return precomputed(tmp_path_factory.mktemp("stores") / "small", people, checkpoints)


@pytest.fixture
def copied(tmp_path: Path, small_store: TargetStore) -> TargetStore:
    """A copy of the heatmap8 store, to be damaged."""
    shutil.copytree(small_store.root, tmp_path / "copied")
    return open_store(tmp_path / "copied")


@pytest.fixture
def train(tmp_path: Path, sticks: Path, exact_store: TargetStore) -> Run:
    """`train(out, **options)`: two epochs of three steps of mbpose on the float32 store."""

    def run(out: str, **options: Any) -> Generator[dict[str, Any], None, None]:
        defaults: dict[str, Any] = {
            "student": "mbpose",
            "dataset": "coco-keypoints",
            "data_dir": str(sticks),
            "store": str(exact_store.root),
            "epochs": 2,
            "batch_size": 8,
            "eval_every": 2,
            "seed": 1,
            "device": "cpu",
        }
        return kdcache.train_student(**{**defaults, **options, "out": str(tmp_path / out)})

    return run
