"""Preprocessing: the arithmetic, and the sidecar's JSON."""

import json
from typing import Any

import pytest
import torch

from kdcache.datasets import Preprocessing

PIXELS = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8).expand(2, 3, 2, 2)


def test_it_scales_shifts_and_divides_each_channel() -> None:
    got = Preprocessing(mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 2.0))(PIXELS)
    assert got.dtype == torch.float32
    scaled = torch.tensor([[0.0, 0.2], [0.4, 1.0]])
    expected = torch.stack([scaled, (scaled - 0.5) / 0.5, (scaled - 0.25) / 2])
    torch.testing.assert_close(got, expected.expand(2, 3, 2, 2))


def test_it_keeps_the_memory_format() -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    got = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))(pixels)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_it_round_trips_through_json() -> None:
    preprocessing = Preprocessing(mean=(0.507, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))
    described = json.loads(json.dumps(preprocessing.describe()))
    assert Preprocessing.from_description(described) == preprocessing


@pytest.mark.parametrize(
    "description",
    [None, [], 3, {}, {"mean": [0.5]}, {"mean": 0.5, "std": 0.5}, {"mean": ["x"], "std": [1]}],
)
def test_another_description_is_refused(description: Any) -> None:
    with pytest.raises(ValueError, match="preprocessing must look like"):
        Preprocessing.from_description(description)


@pytest.mark.parametrize(
    ("mean", "std"), [((), ()), ((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))]
)
def test_impossible_numbers_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one number a channel and std > 0"):
        Preprocessing(mean=mean, std=std)


def test_pixels_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="preprocessing has 1 channels, pixels have 3"):
        Preprocessing(mean=(0.5,), std=(0.5,))(PIXELS)
