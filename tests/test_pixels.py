"""Pixels made on the training device are those made on the host, byte for byte.

No accelerator is needed: the same tensor operations run on the CPU when they are asked for.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.datasets.image_dataset import array_dataset
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.errors import UsageError
from kdcache.loader import ReplayLoader
from kdcache.pixels import view_pixels
from kdcache.sources import LabelsOnly
from kdcache.views import CropFlip, Recipe, Unaugmented
from kdcache.views.recipe import Pixels


def dataset_of(size: int, samples: int) -> ImageDataset:
    generator = np.random.default_rng(size * 1000 + samples)
    return array_dataset(
        name="random",
        split="train",
        images_NCHW=generator.integers(0, 256, (samples, 3, size, size), dtype=np.uint8),
        labels_N=np.arange(samples) % 4,
        num_classes=4,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={"size": size, "padding": 1},
    )


@st.composite
def recipes(draw: st.DrawFn, size: int) -> Recipe:
    seed = draw(st.integers(0, 2**64 - 1))
    if draw(st.booleans()):
        return CropFlip(
            size=size,
            padding=draw(st.integers(0, size)),
            flip=draw(st.booleans()),
            seed=seed,
        )
    return Unaugmented(seed=seed)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), size=st.integers(1, 9), batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_loader_gives_the_same_batches(
    data: st.DataObject, size: int, batch: int, seed: int
) -> None:
    """Whole epochs of a part of the dataset, begun anywhere."""
    whole = dataset_of(size, 300)
    kept = data.draw(st.lists(st.integers(0, 299), min_size=40, unique=True))
    source = LabelsOnly(data.draw(recipes(size)), views=[0])
    host, device = (
        ReplayLoader(
            whole.subset(np.array(kept)),
            source,
            batch,
            seed=seed,
            device="cpu",
            normalize=None,
            drop_last=False,
            resident_pixels=resident,
        )
        for resident in (False, True)
    )
    first = data.draw(st.integers(0, len(host)))
    for loader in (host, device):
        loader.load_state_dict({"epoch": 0, "done": first})
    batches = list(zip(host, device, strict=True))
    assert len(batches) == len(host) - first
    for ours, theirs in batches:
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.index, theirs.index)


def test_views_are_made_on_the_device_without_waiting_for_it() -> None:
    """A meta tensor has no values: whatever asks for one raises."""
    dataset = dataset_of(8, 20)
    pixels = view_pixels(dataset, CropFlip(size=8, padding=2), torch.device("meta"))
    made = pixels(dataset.index_N[3:9], 5)
    assert (made.device.type, made.shape, made.dtype) == ("meta", (6, 3, 8, 8), torch.uint8)


@dataclass(frozen=True, kw_only=True)
class HostOnly(Recipe):
    """A recipe that knows arrays alone."""

    name: ClassVar[str] = "host-only"

    def __call__(self, images_BCHW: Pixels, index_B: NDArray[np.int64], view: int) -> Pixels:
        return images_BCHW


def test_a_recipe_without_a_form_for_devices_is_replayed_on_the_host() -> None:
    dataset = dataset_of(8, 20)
    pixels = view_pixels(dataset, HostOnly(), torch.device("meta"))
    assert pixels(dataset.index_N[:4], 0).shape == (4, 3, 8, 8)
    with pytest.raises(UsageError, match=r"host-only.*resident_pixels"):
        view_pixels(dataset, HostOnly(), torch.device("cpu"), resident=True)
