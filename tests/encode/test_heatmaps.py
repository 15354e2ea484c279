"""Heatmaps and keypoints as kinds of target: shapes, encoders, and what encoding cost."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.encode import (
    HEATMAPS,
    KEYPOINTS,
    KINDS,
    Encoder,
    find_encoder,
    find_kind,
)
from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps

FloatArray = NDArray[np.float32]
LABELS = np.zeros(0, dtype=np.int64)
COCO = {"num_classes": 17, "heatmap_shape": [64, 48]}


def coded(name: str, exact: FloatArray) -> FloatArray:
    encoder = find_encoder(name)
    return encoder.round_trip(encoder.encode(exact), LABELS)


def some_maps(count: int, seed: int = 0) -> FloatArray:
    """(count, 5, 16, 12): some blank, some with a joint."""
    rng = np.random.default_rng(seed)
    joints = np.stack(
        [rng.uniform(8, 40, (count, 5)), rng.uniform(8, 56, (count, 5)), np.ones((count, 5))], 2
    )
    maps = gaussian_heatmaps(torch.tensor(joints), 16, 12).numpy()
    maps *= rng.choice([0.0, 0.4, 1.0], (count, 5, 1, 1)).astype(np.float32)
    return (maps + rng.normal(0, 0.008, maps.shape)).astype(np.float32)


def plain_keypoint(heatmap: FloatArray) -> tuple[float, float]:
    x, y, _ = decode_keypoints(torch.from_numpy(heatmap)[None, None])[0, 0].tolist()
    return x / 4, y / 4


def plain_error_sums(exact: FloatArray, decoded: FloatArray) -> dict[str, float]:
    sums = dict.fromkeys(["relative", "argmax", "keypoint", "max_keypoint"], 0.0)
    for maps, others in zip(exact, decoded, strict=True):
        each = []
        for heatmap, other in zip(maps, others, strict=True):
            peak = float(heatmap.max())
            if peak < np.float32(0.05):
                continue
            change = np.abs(other.astype(np.float64) - heatmap).mean() / peak
            (x, y), (u, v) = plain_keypoint(heatmap), plain_keypoint(other)
            moved = float(heatmap.argmax() != other.argmax())
            each.append((float(change), moved, math.hypot(u - x, v - y)))
        for at, name in enumerate(("relative", "argmax", "keypoint")):
            sums[name] += sum(values[at] for values in each) / max(len(each), 1)
        sums["max_keypoint"] = max([sums["max_keypoint"], *(values[2] for values in each)])
    sums["measured_rows"] = float(len(exact))
    sums["max_absolute"] = float(np.abs(exact - decoded).max())
    return sums


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 6), seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 0.005, 0.3]))
def test_error_sums_equal_a_plain_loop(count: int, seed: int, noise: float) -> None:
    exact = some_maps(count, seed)
    rng = np.random.default_rng(seed)
    changed = (exact + rng.normal(0, noise, exact.shape)).astype(np.float32)
    got = HEATMAPS.error_sums(exact, changed, LABELS)
    expected = plain_error_sums(exact, changed)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-9)


def test_what_each_encoder_costs_on_maps_with_noise() -> None:
    exact = some_maps(40)
    cost = {
        name: HEATMAPS.combine_error_sums([HEATMAPS.error_sums(exact, coded(name, exact), LABELS)])
        for name in HEATMAPS.encoders
    }
    assert not any(cost["float32"].values())
    assert cost["heatmap8"]["argmax"] == cost["heatmap8"]["max_keypoint"] == 0.0
    assert 0 < cost["float16"]["relative"] < 1e-3 < cost["heatmap8"]["relative"] < 0.01
    assert 0 < cost["float16"]["max_absolute"] < cost["heatmap8"]["max_absolute"] < 0.016 * 1.05


def test_blank_maps_count_in_no_mean() -> None:
    exact = np.zeros((2, 2, 8, 8), dtype=np.float32)
    exact[0, 0, 3, 4] = 1.0
    exact[:, 1, 2, 2] = 0.049
    exact[1, 0, 2, 2] = 0.049
    changed = exact.copy()
    changed[0, 0, 3, 4], changed[0, 0, 6, 4] = 0.0, 0.8
    changed[:, 1, 5, 5] = 0.06
    got = HEATMAPS.error_sums(exact, changed, LABELS)
    assert got == pytest.approx(
        {
            "measured_rows": 2.0,
            "relative": 1.8 / 64,
            "argmax": 1.0,
            "keypoint": 3.0,
            "max_keypoint": 3.0,
            "max_absolute": 1.0,
        }
    )


def test_many_rows_are_measured_in_part_but_the_largest_change_is_of_all() -> None:
    exact = np.zeros((500, 1, 5, 5), dtype=np.float32)
    exact[:, 0, 2, 2] = 1.0
    changed = exact.copy()
    changed[1] = 0.0  # between two of the rows that are measured
    got = HEATMAPS.error_sums(exact, changed, LABELS)
    assert (got["measured_rows"], got["argmax"], got["max_absolute"]) == (64.0, 0.0, 1.0)


def test_rows_have_the_shape_of_their_kind() -> None:
    assert HEATMAPS.row_shape(COCO) == (17, 64, 48)
    assert KEYPOINTS.row_shape(COCO) == (17, 3)
    assert HEATMAPS.row_shape(COCO, 17) == (17, 64, 48)  # no width is the network's to say
    for kind in (HEATMAPS, KEYPOINTS):
        assert find_kind(kind.name) is KINDS[kind.name] is kind
        assert len(kind.row_shape(COCO)) == len(kind.dimension_names)
        assert kind.option is None
        assert not kind.from_features
        assert kind.num_correct(np.zeros((3, 17, 3), dtype=np.float32), np.zeros(3, np.int64)) == 0


@pytest.mark.parametrize(
    "shape",
    [None, [64], [64, 48, 1], "64", [64, 4], [0, 48], [64, 1025], [64.0, 48], [True, 48], {}, 64],
)
def test_no_heatmap_has_such_a_shape(shape: object) -> None:
    with pytest.raises(ValueError, match="heatmaps are two sides of 5 to 1,024 pixels, H and W"):
        HEATMAPS.row_shape({"num_classes": 17, "heatmap_shape": shape})


@pytest.mark.parametrize("joints", [None, 0, -1, 1025, 17.0, True, "17"])
def test_nobody_has_so_many_joints(joints: object) -> None:
    dataset: dict[str, Any] = {**COCO, "num_classes": joints}
    for kind in (HEATMAPS, KEYPOINTS):
        with pytest.raises(ValueError, match="a person has 1 to 1,024 joints, not"):
            kind.row_shape(dataset)


@pytest.mark.parametrize("name", ["heatmap8", "float16", "float32"])
def test_keypoints_are_exact_beside_heatmaps_of_any_encoder(name: str) -> None:
    encoder: Encoder = find_encoder(name)
    assert HEATMAPS.encoder_beside(encoder) == name
    assert KEYPOINTS.encoder_beside(encoder) == "float32"
    assert KEYPOINTS.encoders == ("float32",)
    assert KEYPOINTS.error_sums(some_maps(2), some_maps(2), LABELS) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_networks_maps_are_what_they_were_in_float32(dtype: torch.dtype) -> None:
    output = torch.from_numpy(some_maps(3)).to(dtype)
    maps, keypoints = (kind.from_forward(output) for kind in (HEATMAPS, KEYPOINTS))
    assert (maps.dtype, keypoints.dtype) == (torch.float32, torch.float32)
    assert torch.equal(maps, output.to(torch.float32))
    assert torch.equal(keypoints, decode_keypoints(maps))
    assert keypoints.shape == (3, 5, 3)
