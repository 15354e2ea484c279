"""Keypoints of another device: a tie broken otherwise is no other mentor, another place is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps
from kdcache.row_checks import unlike_keypoints

TOLERANCE = 1e-3  # of fp32
HEIGHT, WIDTH = 16, 12


def decoded(maps_JHW: NDArray[np.float32]) -> NDArray[np.float32]:
    keypoints: NDArray[np.float32] = decode_keypoints(torch.from_numpy(maps_JHW)[None])[0].numpy()
    return keypoints


def maps(*joints: tuple[float, float, float]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = gaussian_heatmaps(torch.tensor([joints]), HEIGHT, WIDTH)[0].numpy()
    return found


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["noise", "peaks", "flat", "negative"]))
def test_maps_that_differ_by_rounding_are_alike(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    shape = (17, HEIGHT, WIDTH)
    maps_JHW = random.normal(size=shape).astype(np.float32)
    if kind == "peaks":
        joints = random.uniform(-8, 70, (17, 2))
        maps_JHW = maps(*[(x, y, 1.0) for x, y in joints.tolist()]) + np.float32(0.01) * maps_JHW
    elif kind == "flat":
        maps_JHW = np.round(maps_JHW)  # many pixels share the peak
    elif kind == "negative":
        maps_JHW = -np.abs(maps_JHW) * random.choice([0, 1e-6, 1], (17, 1, 1)).astype(np.float32)
    peak_J11 = np.abs(maps_JHW.max(axis=(1, 2), keepdims=True))
    noise = random.uniform(-1, 1, shape) * 0.99 * TOLERANCE * (1 + peak_J11)
    elsewhere = (maps_JHW + noise).astype(np.float32)
    assert unlike_keypoints(7, decoded(maps_JHW), maps_JHW, 0.0) is None
    assert unlike_keypoints(7, decoded(elsewhere), maps_JHW, TOLERANCE) is None


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ((8.0, 0, 0), "joint 1"),  # two heatmap pixels to the right
        ((2.0, 0, 0), "joint 1"),  # the quarter pixel to the other side
        ((0, -1.0, 0), "joint 1"),  # no quarter pixel
        ((0, 0, 0.1), "joint 1"),
        ((np.nan, 0, 0), "joint 1"),
        ((0, np.inf, 0), "joint 1"),
        ((0, 0, np.nan), "joint 1"),
        ((1e9, 1e9, 0), "joint 1"),
    ],
)
def test_what_is_somewhere_else_is_told(change: tuple[float, float, float], at: str) -> None:
    maps_JHW = maps((12.0, 20.0, 1.0), (23.0, 33.0, 1.0), (0.0, 0.0, 0.0))
    keypoints_J3 = decoded(maps_JHW)
    assert unlike_keypoints(7, keypoints_J3, maps_JHW, TOLERANCE) is None
    keypoints_J3[1] += np.array(change, dtype=np.float32)
    reason = unlike_keypoints(7, keypoints_J3, maps_JHW, TOLERANCE)
    assert reason is not None
    assert f"sample 7, {at}: the store has" in reason
    assert "the mentor says" in reason


def test_a_tie_may_be_broken_either_way() -> None:
    left, right = maps((12.0, 20.0, 1.0)), maps((32.0, 44.0, 1.0))
    ours, theirs = left + right * np.float32(1.0005), left * np.float32(1.0005) + right
    assert np.abs(decoded(ours) - decoded(theirs)).max() > 15  # view pixels
    assert unlike_keypoints(0, decoded(ours), theirs, TOLERANCE) is None
    assert unlike_keypoints(0, decoded(ours), theirs, 1e-5) is not None
