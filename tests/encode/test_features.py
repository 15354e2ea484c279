"""Features and logsumexps as targets: their rows, their encoders, what encoding cost them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kdcache.encode import (
    ENCODERS,
    FEATURES,
    LOGITS,
    LOGSUMEXP,
    find_encoder,
    find_kind,
    raw_logits,
)
from kdcache.encode.features import MOST_FEATURES
from kdcache.errors import UsageError

LABELS = np.zeros(0, dtype=np.int64)


def decoded_by(name: str, exact: NDArray[np.float32]) -> NDArray[np.float32]:
    encoder = find_encoder(name)
    rows: NDArray[np.float32] = encoder.decode(torch.from_numpy(encoder.encode(exact))).numpy()
    return rows


@settings(deadline=None)
@given(
    exact=arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.floats(-65504, 65504, width=32),
    )
)
def test_features_keep_their_bound_and_their_errors_are_measured(
    exact: NDArray[np.float32],
) -> None:
    decoded = decoded_by("float16", exact)
    off = np.abs(decoded.astype(np.float64) - exact)
    assert (off <= np.maximum(2.0**-11 * np.abs(exact, dtype=np.float64), 2.0**-25)).all()
    got = FEATURES.error_sums(exact, decoded, LABELS)
    relative = []
    for x, y in zip(exact.tolist(), decoded.tolist(), strict=True):
        length = math.sqrt(math.fsum(a * a for a in x))
        change = math.sqrt(math.fsum((b - a) ** 2 for a, b in zip(x, y, strict=True)))
        relative.append(change / length if length else change)
    assert got.keys() == {"measured_rows", "relative", "max_relative", "max_absolute"}
    assert got["measured_rows"] == len(exact)
    assert got["relative"] == pytest.approx(math.fsum(relative), rel=1e-9, abs=1e-12)
    assert got["max_relative"] == pytest.approx(max(relative), rel=1e-9, abs=1e-12)
    assert got["max_absolute"] == pytest.approx(off.max(), rel=1e-6)


def test_many_rows_are_measured_in_part_but_the_largest_change_is_of_all() -> None:
    exact = np.ones((5000, 3), dtype=np.float32)
    changed = exact.copy()
    changed[1] = 3.0  # between two of the rows that are measured
    got = FEATURES.error_sums(exact, changed, LABELS)
    assert (got["measured_rows"], got["relative"], got["max_absolute"]) == (1024, 0.0, 2.0)
    means = FEATURES.combine_error_sums([got, FEATURES.error_sums(exact[:2], changed[:2], LABELS)])
    assert means == {"relative": 2 / 1026, "max_relative": 2.0, "max_absolute": 2.0}


@pytest.mark.parametrize("width", [0, -1, MOST_FEATURES + 1, 2**62, 1.0, True, None, "64"])
def test_no_row_has_such_a_width(width: object) -> None:
    with pytest.raises(ValueError, match="1 to 65,536 features"):
        FEATURES.row_shape({"num_classes": 100}, width)  # type: ignore[arg-type]


def test_rows_have_the_shape_of_their_kind() -> None:
    dataset = {"num_classes": 100}
    assert FEATURES.row_shape(dataset, 64) == (64,)
    assert FEATURES.row_shape(dataset, MOST_FEATURES) == (MOST_FEATURES,)
    assert LOGSUMEXP.row_shape(dataset) == ()
    for kind in (LOGITS, FEATURES, LOGSUMEXP):
        assert len(kind.row_shape(dataset, 7)) == len(kind.dimension_names)
        assert find_kind(kind.name) is kind
        assert kind.num_correct(np.eye(3, dtype=np.float32), np.arange(3)) == 3 * (kind is LOGITS)
    with pytest.raises(
        UsageError, match=r"unknown kind of targets 'feature'. Did you mean features"
    ):
        find_kind("feature")


@pytest.mark.parametrize("logits", ENCODERS)
def test_beside_exact_logits_all_is_exact(logits: str) -> None:
    """So that training from such a store is training online, whatever the method needs."""
    encoder = find_encoder(logits)
    assert LOGITS.encoder_beside(encoder) == logits
    assert FEATURES.encoder_beside(encoder) == ("float32" if encoder.exact else "float16")
    assert LOGSUMEXP.encoder_beside(encoder) == "float32"
    for kind in (LOGITS, FEATURES, LOGSUMEXP):
        assert kind.encoder_beside(encoder) in kind.encoders


@settings(deadline=None)
@given(
    logits=arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 7)),
        elements=st.floats(-500, 500, width=32),
    ),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_log_probabilities_and_logsumexp_are_the_raw_logits(
    logits: NDArray[np.float32], dtype: torch.dtype
) -> None:
    output_BC = torch.from_numpy(logits).to(dtype)
    log_probs, logsumexp = (k.from_forward(output_BC) for k in (LOGITS, LOGSUMEXP))
    assert (logsumexp.dtype, logsumexp.shape) == (torch.float32, output_BC.shape[:1])
    again = raw_logits(log_probs[:, None], logsumexp[:, None])[:, 0]
    torch.testing.assert_close(again, output_BC.to(torch.float32), rtol=0, atol=2e-4)


def test_features_are_what_they_were_in_float32() -> None:
    features_BF = torch.randn(3, 5).to(torch.bfloat16)
    targets = FEATURES.from_forward(torch.zeros(3, 2), features_BF)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, features_BF.to(torch.float32))
