"""Encoders: every value within the stated bound, or refused."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from kdcache.encode import ENCODERS, Encoder, Float16, Float32, find_encoder
from kdcache.errors import UsageError

LARGEST = 65504.0
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
in_range = st.floats(-LARGEST, LARGEST, width=32)
rows = array_shapes(min_dims=1, max_dims=3, max_side=5)


def round_trip(encoder: Encoder, targets: NDArray[np.float32]) -> NDArray[np.float32]:
    stored = encoder.encode(targets)
    assert stored.dtype == np.dtype(encoder.dtype)
    assert stored.shape == targets.shape
    decoded = encoder.decode(torch.from_numpy(stored))
    assert decoded.dtype == torch.float32
    decoded_array: NDArray[np.float32] = decoded.numpy()
    return decoded_array


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)


@settings(deadline=None)
@given(targets=arrays(np.float32, rows, elements=finite))
def test_float32_gives_back_every_bit(targets: NDArray[np.float32]) -> None:
    assert np.array_equal(bits(round_trip(Float32(), targets)), bits(targets))
    assert not Float32().bound(targets).any()


@settings(deadline=None, max_examples=300)
@given(targets=arrays(np.float32, rows, elements=in_range))
@example(targets=np.array([LARGEST, -LARGEST, 65503.9, 0.0, -0.0], dtype=np.float32))
@example(targets=np.array([2**-14, 2**-15, 2**-24, 2**-25, 2**-26, 2**-149], dtype=np.float32))
@example(targets=np.array([1 + 2**-11, 1 + 3 * 2**-11, 2 - 2**-23], dtype=np.float32))
def test_float16_stays_within_its_bound(targets: NDArray[np.float32]) -> None:
    decoded = round_trip(Float16(), targets).astype(np.float64)
    error = np.abs(decoded - targets.astype(np.float64))
    stated = np.maximum(2.0**-11 * np.abs(targets.astype(np.float64)), 2.0**-25)
    assert np.array_equal(Float16().bound(targets), stated)
    assert (error <= stated).all()


def test_float16_stays_within_its_bound_at_and_between_all_its_numbers() -> None:
    grid = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (grid[:-1] + grid[1:]) / 2
    around = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    targets = np.concatenate([grid, middle, *around])
    targets = np.concatenate([targets, -targets])
    error = np.abs(round_trip(Float16(), targets).astype(np.float64) - targets)
    assert (error <= Float16().bound(targets)).all()
    assert np.array_equal(round_trip(Float16(), grid), grid)
    # The bound is no larger than it must be: ties reach both of its parts.
    assert (error == 2.0**-25).any()
    assert (error / np.maximum(np.abs(targets), 2.0**-14)).max() > 2.0**-11 * 0.999


@pytest.mark.parametrize("value", [65504.004, 65519.0, 65520.0, 1e30, math.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_float16_refuses_what_it_cannot_hold(value: float, sign: int) -> None:
    targets = np.array([[0.0, sign * value]], dtype=np.float32)
    with pytest.raises(ValueError, match=r"up to 65504, .* use --encoder float32"):
        Float16().encode(targets)


@pytest.mark.parametrize("encoder", ENCODERS.values())
def test_no_rows_are_encoded_to_no_rows(encoder: Encoder) -> None:
    assert round_trip(encoder, np.empty((0, 7), dtype=np.float32)).shape == (0, 7)


def test_only_float32_is_exact() -> None:
    assert {name: encoder.exact for name, encoder in ENCODERS.items()} == {
        "float32": True,
        "float16": False,
        "sqrt8": False,
        "sqrt8-zstd": False,
    }


def test_only_the_name_says_that_it_is_compressed() -> None:
    assert {name for name, encoder in ENCODERS.items() if encoder.compression} == {"sqrt8-zstd"}


@pytest.mark.parametrize("encoder", ENCODERS.values())
def test_what_fills_a_chunk_is_no_target(encoder: Encoder) -> None:
    """So that padding is never taken for a target, in any language."""
    targets = -np.geomspace(2.0**-30, 63, 10_000, dtype=np.float32)
    fill = np.array(encoder.fill, dtype=encoder.dtype)
    stored = encoder.encode(np.append(targets, np.float32(0)))
    assert not np.array_equal(stored, np.full_like(stored, fill), equal_nan=True)
    assert not (stored == fill).any()
    assert not np.isnan(stored).any()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_description_round_trips_through_json(name: str) -> None:
    encoder = find_encoder(name)
    described = json.loads(json.dumps(encoder.describe()))
    assert described == encoder.describe()
    assert find_encoder(described["name"]) == encoder


def test_descriptions_are_pinned() -> None:
    assert Float32().describe() == {
        "name": "float32",
        "arithmetic": "target = stored",
        "relative_error": 0.0,
        "absolute_error": 0.0,
        "root_error": 0.0,
    }
    assert Float16().describe() == {
        "name": "float16",
        "arithmetic": "target = float32(stored)",
        "relative_error": 2.0**-11,
        "absolute_error": 2.0**-25,
        "root_error": 0.0,
    }
    for name in ("sqrt8", "sqrt8-zstd"):  # the compression is Zarr's to state
        assert find_encoder(name).describe() == {
            "name": name,
            "arithmetic": "target = -(stored / 32)^2, computed in float32 (exact); 255: no target",
            "relative_error": 0.0,
            "absolute_error": 2.0**-12 + 2.0**-25,
            "root_error": 2.0**-5 + 2.0**-18,
        }


def test_an_unknown_encoder_is_an_error_with_the_near_names() -> None:
    with pytest.raises(UsageError, match=r"'float61'\. Did you mean .*float16.* Known: float16,"):
        find_encoder("float61")
