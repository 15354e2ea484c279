"""sqrt8: one byte a class; every log-probability within the stated bound, or refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from kdcache.encode import Sqrt8, find_encoder
from kdcache.encode.sqrt8 import SMALLEST_TARGET

SMALLEST = np.float32(-63.00390625)  # -(254 / 32)^2
ABOVE, BELOW = (np.nextafter(SMALLEST, np.float32(side)) for side in (0, -np.inf))
TINY = np.float32(2.0**-149)
rows = array_shapes(min_dims=1, max_dims=3, max_side=5)
in_range = st.floats(float(SMALLEST), 0.0, width=32)


def plain_encode(target: float) -> int:
    """The nearest level by comparing all of them, in exact float64."""
    root = math.sqrt(-target)
    return min(range(255), key=lambda level: abs(level / 32 - root))


def plain_decode(stored: int) -> float:
    return -((stored / 32) ** 2)


def plain_bound(target: float) -> float:
    """Half a step of the root, as it shows in the target; a little more for float32 roots."""
    return (math.sqrt(-target) / 32 + 1 / 4096) * (1 + 2.0**-13)


def decoded(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = Sqrt8().decode(torch.from_numpy(stored)).numpy()
    return values


@settings(deadline=None, max_examples=300)
@given(targets=arrays(np.float32, rows, elements=in_range))
@example(targets=np.array([SMALLEST, ABOVE, 0.0, -0.0, -63.0], dtype=np.float32))
@example(targets=np.array([-TINY, -(2.0**-126), -(2.0**-127), -(2.0**-24)], dtype=np.float32))
@example(targets=np.array([-1 / 4096, -9 / 4096, -1.0, -1.0000001], dtype=np.float32))
def test_every_value_stays_within_the_bound(targets: NDArray[np.float32]) -> None:
    stored = Sqrt8().encode(targets)
    assert stored.dtype == np.uint8
    assert stored.shape == targets.shape
    assert (stored != 255).all()
    error = np.abs(decoded(stored).astype(np.float64) - targets.astype(np.float64))
    stated = [plain_bound(float(target)) for target in targets.ravel()]
    assert np.allclose(Sqrt8().bound(targets).ravel(), stated, rtol=1e-12)
    assert (error <= Sqrt8().bound(targets)).all()


@settings(deadline=None)
@given(targets=arrays(np.float32, st.integers(1, 20), elements=in_range))
def test_it_is_the_plain_loop(targets: NDArray[np.float32]) -> None:
    stored = Sqrt8().encode(targets)
    for target, level in zip(targets.tolist(), stored.tolist(), strict=True):
        nearest = plain_encode(target)
        distance = abs(level / 32 - math.sqrt(-target)) - abs(nearest / 32 - math.sqrt(-target))
        assert level == nearest or distance <= 2.0**-22  # a tie, but for the float32 root
    assert decoded(stored).tolist() == [plain_decode(int(level)) for level in stored]


def test_the_bound_holds_around_every_level_and_every_middle() -> None:
    """All float32 within 40 of where rounding changes its mind, for all 255 levels."""
    around = np.arange(-40, 41, dtype=np.int32)
    centres = [-((np.arange(0, 509) / 64) ** 2)]  # levels and the middles between them
    bits = np.concatenate(centres).astype(np.float32).view(np.int32)
    targets = (bits[:, None] + around).astype(np.int32).view(np.float32).ravel()
    targets = targets[(targets <= 0) & (targets >= SMALLEST)]
    assert len(targets) > 39_000
    error = np.abs(decoded(Sqrt8().encode(targets)).astype(np.float64) - targets)
    bound = Sqrt8().bound(targets)
    assert (error <= bound).all()
    assert (error / bound).max() > 0.999  # and it is no larger than it must be


def test_decoding_every_byte_is_exact_arithmetic() -> None:
    levels = np.arange(256, dtype=np.uint8)
    got = decoded(levels)
    assert got.dtype == np.float32
    assert got.astype(np.float64).tolist() == [plain_decode(level) for level in range(256)]
    assert np.array_equal(Sqrt8().encode(got[:255]), levels[:255])  # encoding again changes none
    assert levels.tolist() == list(range(256))  # decoding leaves what is stored as it is


def test_decoding_keeps_the_shape_of_any_view_of_a_tensor() -> None:
    stored = torch.arange(240, dtype=torch.uint8).view(4, 6, 10)
    part = stored.transpose(0, 2)[::3]
    got = Sqrt8().decode(part)
    assert (got.shape, got.dtype) == (part.shape, torch.float32)
    assert torch.equal(got, -((part.to(torch.float32) / 32) ** 2))


def test_golden_bytes() -> None:
    targets = np.array(
        [[0.0, -0.001, -0.0105, -0.5], [-1.0, -4.605, -36.0, -63.0]], dtype=np.float32
    )
    stored = Sqrt8().encode(targets)
    assert stored.tobytes() == bytes([0, 1, 3, 23, 32, 69, 192, 254])
    assert decoded(stored).ravel().tolist() == [
        -0.0, -0.0009765625, -0.0087890625, -0.5166015625,
        -1.0, -4.6494140625, -36.0, -63.00390625,
    ]  # fmt: skip


def test_the_smallest_target_is_the_last_level() -> None:
    assert np.float32(SMALLEST_TARGET) == SMALLEST == SMALLEST_TARGET
    assert Sqrt8().encode(np.array([SMALLEST, ABOVE])).tolist() == [254, 254]


@pytest.mark.parametrize(
    "value", [BELOW, -64.0, -1e30, -math.inf, TINY, 2.0**-126, 1e-7, 0.5, math.inf, math.nan]
)
@pytest.mark.parametrize("name", ["sqrt8", "sqrt8-zstd"])
def test_what_it_cannot_hold_is_refused(value: float, name: str) -> None:
    targets = np.array([[-1.0, value], [-2.0, -0.5]], dtype=np.float32)
    with pytest.raises(ValueError, match=f"^{name} holds .* from -63.00 to 0, a target is") as e:
        find_encoder(name).encode(targets)
    remedy = "float16" if abs(value) < 65504 else "float32"
    assert f"a target is {np.float32(value):g}; use --encoder {remedy}" in str(e.value)


@settings(deadline=None)
@given(value=st.floats(width=32).filter(lambda x: not SMALLEST <= x <= 0))
def test_whatever_else_it_cannot_hold_is_refused(value: float) -> None:
    target = np.array([value], dtype=np.float32)
    with pytest.raises(ValueError, match="use --encoder") as e:
        Sqrt8().encode(target)
    remedy = str(e.value).split()[-1]
    assert remedy == ("float16" if abs(value) <= 65504 else "float32")
    find_encoder(remedy).encode(target)  # holds it indeed


def test_compression_changes_no_row() -> None:
    targets = -np.random.default_rng(0).exponential(5, (30, 7)).astype(np.float32).clip(0, 63)
    assert np.array_equal(find_encoder("sqrt8-zstd").encode(targets), Sqrt8().encode(targets))
