"""heatmap8: every value of every map within the stated bound, and every keypoint where it was."""

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numcodecs import zstd
from numpy.typing import NDArray

from kdcache.encode import (
    ENCODERS,
    MAP_ENCODERS,
    Encoder,
    Heatmap8,
    encoder_from_description,
    find_encoder,
)
from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps

FloatArray = NDArray[np.float32]
shapes = st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 6), st.integers(5, 8))
magnitudes = st.sampled_from([1.0, 1e-3, 1e-8, 1e-30, 1e-40, 1e3, 1e6, 1e29])
TINY = np.float32(2.0**-149)


def coded(targets: FloatArray) -> FloatArray:
    stored = Heatmap8().encode(targets)
    *leading, height, width = targets.shape
    assert stored.dtype == np.uint8
    assert stored.shape == (*leading, height + 1, width)
    decoded = Heatmap8().decode(torch.from_numpy(stored))
    assert (decoded.shape, decoded.dtype) == (targets.shape, torch.float32)
    values: FloatArray = decoded.numpy()
    return values


def plain_decode(row: bytes, joints: int, height: int, width: int) -> list[float]:
    """As the arithmetic states it, byte by byte."""
    values = []
    for joint in range(joints):
        start = joint * (height + 1) * width
        (step,) = struct.unpack("<f", row[start + height * width :][:4])
        zero = row[start + height * width + 4]
        for level in row[start : start + height * width]:
            values.append(float(np.float32(level - zero) * np.float32(step)))
    return values


def plain_bound(heatmap: FloatArray) -> float:
    largest = max(abs(float(value)) for value in heatmap.ravel())
    return 0.016 * max(largest, 1)


def require_kept(targets: FloatArray) -> None:
    """The bound, exact zeros, and for each map the place of its peak and its quarter pixel."""
    decoded = coded(targets)
    off = np.abs(decoded.astype(np.float64) - targets)
    bound = Heatmap8().bound(targets)
    assert bound.shape == targets.shape
    for maps, maps_off, maps_bound in zip(targets, off, bound, strict=True):
        for heatmap, each_off, each_bound in zip(maps, maps_off, maps_bound, strict=True):
            assert (each_bound == plain_bound(heatmap)).all()
            assert (each_off <= each_bound).all()
    assert (decoded[targets == 0] == 0).all()
    here, there = (decode_keypoints(torch.from_numpy(a)) for a in (targets, decoded))
    assert torch.equal(here[..., :2], there[..., :2])
    shown = targets.max(axis=(-2, -1)) > 0
    places = [a.reshape(*a.shape[:2], -1).argmax(axis=-1)[shown] for a in (targets, decoded)]
    assert np.array_equal(*places)


@settings(deadline=None, max_examples=300)
@given(
    targets=arrays(np.float32, shapes, elements=st.floats(-1, 1, width=32)), magnitude=magnitudes
)
@example(targets=np.zeros((1, 2, 5, 5), dtype=np.float32), magnitude=1.0)
@example(targets=np.full((1, 1, 3, 5), TINY), magnitude=1.0)
@example(targets=np.full((1, 1, 3, 5), -1.0, dtype=np.float32), magnitude=1.0)
def test_every_value_stays_within_the_bound(targets: FloatArray, magnitude: float) -> None:
    require_kept(targets * np.float32(magnitude))


@settings(deadline=None, max_examples=300)
@given(
    targets=arrays(
        np.float32, shapes, elements=st.sampled_from([-1, -0.999, -0.01, 0, 1e-3, 0.5, 0.999, 1])
    ),
    magnitude=magnitudes,
)
def test_ties_near_ties_and_the_faintest_order_are_kept(
    targets: FloatArray, magnitude: float
) -> None:
    require_kept(targets * np.float32(magnitude))


@pytest.mark.parametrize(
    "make",
    [
        lambda rng, s: rng.normal(size=s),
        lambda rng, s: -rng.exponential(size=s),
        lambda rng, s: rng.exponential(size=s) ** 4,
        lambda rng, s: 1 - rng.uniform(0, 1e-3, s),  # all within a level of the peak
        lambda rng, s: 1.0001 * (rng.uniform(size=s) > 0.99) - 1,  # a peak of far less than a step
        lambda rng, s: np.where(rng.uniform(size=s) > 0.5, 1, -1) * (1 + 1e-6 * rng.normal(size=s)),
    ],
    ids=["noise", "all negative", "peaked", "flat", "just above zero", "as far below as above"],
)
@pytest.mark.parametrize("magnitude", [1.0, 1e-4, 1e9])
def test_maps_of_every_kind_stay_within_the_bound(
    make: Callable[[np.random.Generator, tuple[int, ...]], FloatArray], magnitude: float
) -> None:
    rng = np.random.default_rng(0)
    require_kept((magnitude * make(rng, (5, 3, 17, 12))).astype(np.float32))


@pytest.mark.parametrize("levels", [0.5, 1.5, 2.1, 2.999, 3.5, 127.5, 128.5])
@pytest.mark.parametrize("lowest", [0.0, -0.5, -1.0, -40.0])
def test_a_peak_of_few_levels_keeps_its_neighbours_within_the_bound(
    levels: float, lowest: float
) -> None:
    """Both are below the peak by little, so one of them is moved down by two levels."""
    heatmap = np.zeros((1, 1, 5, 5), dtype=np.float32)
    peak = levels / 128
    heatmap[0, 0, 2, 1:4] = 0.9995 * peak, peak, 0.999 * peak
    heatmap[0, 0, 4, 4] = lowest * peak
    require_kept(heatmap)


def gaussians(count: int, noise: float = 0.0) -> FloatArray:
    rng = np.random.default_rng(1)
    joints = np.stack([rng.uniform(0, 192, (count, 17)), rng.uniform(0, 256, (count, 17))], axis=2)
    joints = np.concatenate([joints, np.ones((count, 17, 1))], axis=2)
    maps = gaussian_heatmaps(torch.tensor(joints, dtype=torch.float32), 64, 48).numpy()
    maps += rng.normal(0, noise, maps.shape).astype(np.float32)
    return maps


def test_gaussians_are_half_a_step_off_above_the_floor_and_at_most_the_floor_below() -> None:
    maps = gaussians(8)
    require_kept(maps)
    decoded = coded(maps)
    peak = maps.max(axis=(2, 3), keepdims=True)
    assert (peak < 1.01).all()
    off = np.abs(decoded - maps)
    kept = np.abs(maps) >= np.maximum(0.016 * peak, 0.016) * 1.001
    nudged = off > 0.501 / 128  # kept for their order's sake
    assert (np.abs(decoded - maps)[~kept] <= 0.016 * 1.02).all()
    assert (nudged & kept).sum() <= 4 * 8 * 17
    assert (off[kept] <= 2 / 128).all()
    assert (decoded[np.abs(maps) < 0.016] == 0).mean() > 0.999
    assert np.allclose(decoded.max(axis=(2, 3), keepdims=True), peak, rtol=1e-6)


def test_a_row_of_gaussians_takes_few_bytes() -> None:
    """Compressed as a chunk of 16 is; 104,448 bytes as float16, which is all but incompressible."""
    sizes = [
        len(zstd.compress(Heatmap8().encode(gaussians(16, noise)), Heatmap8.zstd_level)) / 16
        for noise in (0.0, 0.002)
    ]
    assert sizes[0] < 2_000
    assert sizes[1] < 3_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**101, -1e38])
def test_what_it_cannot_hold_is_refused(value: float) -> None:
    targets = np.zeros((2, 3, 8, 6), dtype=np.float32)
    targets[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"^heatmap8 holds magnitudes up to 1.27e\+30, a target"):
        Heatmap8().encode(targets)


def test_maps_too_narrow_for_their_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 wide, not 4; use --encoder float16"):
        Heatmap8().encode(np.zeros((1, 1, 8, 4), dtype=np.float32))


def test_golden_bytes() -> None:
    """The step is 1.27 / 163, so 0.4985 and 0.5, beside the peak, are both nearest to level 64 over
    zero, which is 33 (21); the higher one is moved to 65. The second 1.27 is below the first."""
    heatmap = [
        [0.0, 0.004, -0.25, 0.0, 0.0],
        [0.0, 0.4985, 1.27, 0.5, 0.009],
        [0.0, 0.0, 1.27, 0.0, -0.013],
    ]
    stored = Heatmap8().encode(np.array([[heatmap, np.zeros((3, 5))]], dtype=np.float32))
    assert stored.tobytes().hex(" ", 5) == (
        "2121012121 2161c46221 2121c32121 184fff3b21 0101010101 0101010101 0101010101 0000003c01"
    )


@settings(deadline=None)
@given(targets=arrays(np.float32, shapes, elements=st.floats(-2, 2, width=32)))
def test_decoding_is_the_plain_loop(targets: FloatArray) -> None:
    stored = Heatmap8().encode(targets)
    decoded = Heatmap8().decode(torch.from_numpy(stored)).numpy()
    for row, values in zip(stored, decoded, strict=True):
        assert plain_decode(row.tobytes(), *targets.shape[1:]) == values.ravel().tolist()


def test_several_mentors_and_any_view_of_the_rows_are_decoded_alike() -> None:
    maps = gaussians(12, 0.01).reshape(4, 3, 17, 64, 48)
    stored = torch.from_numpy(Heatmap8().encode(maps))
    together = Heatmap8.decode_together([Heatmap8()] * 3, torch.device("cpu"))
    decoded = together(stored, torch.arange(4))
    assert decoded.shape == maps.shape
    for b in range(4):
        for m in range(3):
            assert torch.equal(decoded[b, m], Heatmap8().decode(stored[b, m]))
    before = stored.clone()
    odd = torch.zeros(stored.numel() + 1, dtype=torch.uint8)[1:].view(stored.shape).copy_(stored)
    assert torch.equal(Heatmap8().decode(odd), decoded)  # where no float32 may lie
    assert torch.equal(Heatmap8().decode(stored[::2, 1:]), decoded[::2, 1:])
    assert torch.equal(stored, before)


def test_one_map_is_encoded_as_among_others() -> None:
    maps = gaussians(3, 0.01)
    whole = Heatmap8().encode(maps)
    for person, rows in zip(maps, whole, strict=True):
        for heatmap, row in zip(person, rows, strict=True):
            assert np.array_equal(Heatmap8().encode(heatmap[None, None])[0, 0], row)


def test_what_fills_a_chunk_is_no_target() -> None:
    """Its step is not a number, and neither are its targets; encoding gives no such step."""
    fill = np.full((1, 2, 9, 6), Heatmap8.fill, dtype=np.uint8)
    assert torch.isnan(Heatmap8().decode(torch.from_numpy(fill))).all()
    high = np.full((1, 2, 8, 6), 1.0, dtype=np.float32)
    assert not (Heatmap8().encode(high)[..., -1, :4] == 255).all()


def test_no_rows_are_encoded_to_no_rows() -> None:
    assert coded(np.empty((0, 17, 8, 6), dtype=np.float32)).shape == (0, 17, 8, 6)


def test_its_description_is_pinned_and_read_back() -> None:
    encoder: Encoder = find_encoder("heatmap8")
    assert encoder is MAP_ENCODERS["heatmap8"]
    assert "heatmap8" not in ENCODERS
    described = json.loads(json.dumps(encoder.describe()))
    assert described == {
        "name": "heatmap8",
        "arithmetic": (
            "step = the little-endian float32 in stored[j, H, 0..3]; zero = stored[j, H, 4]; "
            "target[j, y, x] = float32(stored[j, y, x] - zero) * step, in float32; 255 in all "
            "bytes (a step that is not a number): no target"
        ),
        "relative_error": 0.0,
        "absolute_error": 0.016,
        "root_error": 0.0,
        "peak_error": 0.016,
    }
    assert encoder_from_description(described, 17) is encoder
    with pytest.raises(ValueError, match="its arithmetic is not that of heatmap8"):
        encoder_from_description({**described, "peak_error": 0.0}, 17)
    assert not encoder.exact
    assert not encoder.unpacks
    assert encoder.stored_row((17, 64, 48)) == encoder.resident_row((17, 64, 48)) == (17, 65, 48)
