"""Small real precomputes: some digits, mentors that are one linear layer, two blocks a view."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

import kdcache
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.mentors import Mentor
from kdcache.models import build_network
from kdcache.precompute import precompute_targets
from kdcache.store import TargetStore

MENTORS = ("left", "right")
VIEWS = 2
LOCKS = (".lock", ".writers")
INDEX = "commits.json"  # may lag behind its records, so two right stores may differ in it

Key = tuple[str, int, int]  # array ("left/logits"), view, block


@dataclass(frozen=True, kw_only=True)
class World:
    """A dataset, mentors and an encoder: everything about a precompute but where and how much.

    `block`: the most samples a chunk. `network`: `linear`, or a network's name. `features`: keeps
    these and logsumexps too.
    """

    encoder: str = "float16"
    samples: int = 10
    block: int = 5
    network: str = "linear"
    mentors: tuple[str, ...] = MENTORS
    views: int = VIEWS
    features: bool = False
    _dataset: list[ImageDataset] = field(default_factory=list)

    @property
    def dataset(self) -> ImageDataset:
        """Training digits; opened once."""
        if not self._dataset:
            self._dataset.append(open_dataset("digits", samples=self.samples))
        return self._dataset[0]

    def precompute(
        self,
        root: Path,
        mentors: Sequence[str] | None = None,
        views: int | None = None,
        features: bool | None = None,
    ) -> None:
        """Makes, completes or heals the store at `root`; what is not given is this world's."""
        with small_blocks(self.block):
            precompute_targets(
                self.dataset,
                [self.mentor(name) for name in mentors or self.mentors],
                store=root,
                views=views or self.views,
                encoder=self.encoder,
                device="cpu",
                batch_size=64,
                features=self.features if features is None else features,
                keep_logsumexp=self.features if features is None else features,
            )

    def mentor(self, name: str) -> Mentor:
        """Its weights, and so all it says, follow from its name."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
        if self.network == "linear":
            network: torch.nn.Module = _linear(seed)
        else:
            network = build_network(self.network, 10, seed=seed)
        return Mentor(
            name=name,
            architecture=self.network,
            network=network.eval().requires_grad_(False),
            num_classes=10,
            preprocessing=self.dataset.preprocessing,
            checkpoint_sha256=hashlib.sha256(name.encode()).hexdigest(),
        )


def _linear(seed: int) -> torch.nn.Module:
    random = np.random.default_rng(seed)
    layer = torch.nn.Linear(3 * 8 * 8, 10)
    layer.weight.data = torch.from_numpy(random.normal(size=(10, 192)).astype(np.float32)) / 4
    layer.bias.data = torch.from_numpy(random.normal(size=10).astype(np.float32))
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


@contextmanager
def small_blocks(rows: int) -> Iterator[None]:
    """Blocks of at most `rows` samples instead of 8,192."""
    with patch("kdcache.store.layout.TARGET_BLOCK", rows):
        yield


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What an undisturbed run makes: its store's files, and what they decode to.

    `root`: the store, to be copied. `files`: content by relative path, without locks and indices.
    `decoded`: float32 (B, C), (B, F) or (B,) by chunk.
    """

    world: World
    root: Path
    files: Mapping[str, bytes]
    decoded: Mapping[Key, NDArray[np.float32]]


def undisturbed(world: World, root: Path) -> Truth:
    """Makes a store at `root`, which nothing disturbs."""
    world.precompute(root)
    store = kdcache.open_store(root)
    decoded = {}
    for array in [f"{name}/{kind}" for name in world.mentors for kind in store.kinds(name)]:
        for view in range(world.views):
            for block in range(store.manifest.num_blocks):
                decoded[array, view, block] = decoded_rows(store, (array, view, block))
    return Truth(world=world, root=root, files=files_of(root), decoded=decoded)


def decoded_rows(store: TargetStore, key: Key) -> NDArray[np.float32]:
    """What one chunk decodes to."""
    array, view, block = key
    name, kind = array.split("/")
    index = store.index_N[store.manifest.block_rows(block)]
    if kind == "features":
        return store.targets(view, index, [name], kind="features")[0]
    return store.targets(view, index, [name], "logits" if kind == "logits" else "logsumexp")[:, 0]


def files_of(root: Path) -> dict[str, bytes]:
    """Every file's content by relative path, without locks and indices."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (*LOCKS, INDEX)
    }


def copy(source: Path, to: Path) -> Path:
    """A copy of a store, alone in its folder."""
    return Path(shutil.copytree(source, clear(to), symlinks=True))


def restore(source: Path, to: Path) -> Path:
    """A copy, or nothing where nothing is to be copied."""
    return copy(source, to) if source.exists() else clear(to)


def clear(root: Path) -> Path:
    """Empties the folder that a store lies alone in; the store's path."""
    shutil.rmtree(root.parent, ignore_errors=True)
    root.parent.mkdir(parents=True)
    return root


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder in memory where there is one: a thousand fsyncs then cost nothing."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kdcache-torture-", dir=where) as folder:
        yield Path(folder).resolve()
