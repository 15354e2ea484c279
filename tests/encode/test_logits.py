"""Logits as targets: what is stored, and what encoding is said to have cost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.encode import KINDS, LOGITS, Float16
from kdcache.encode.target_kind import MEASURED_ROWS


def some_targets(count: int, num_classes: int, seed: int) -> NDArray[np.float32]:
    """float32 log-probabilities from very flat to very sharp."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, num_classes)) * random.uniform(0.1, 12, (count, 1))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets: NDArray[np.float32] = log_probs.astype(np.float32)
    return targets


def some_labels(count: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed + 1).integers(0, num_classes, count)


def decoded(exact: NDArray[np.float32]) -> NDArray[np.float32]:
    encoder = Float16()
    rows: NDArray[np.float32] = encoder.decode(torch.from_numpy(encoder.encode(exact))).numpy()
    return rows


def log_softmax(row: list[float], temperature: float) -> list[float]:
    scaled = [value / temperature for value in row]
    top = max(scaled)
    total = top + math.log(math.fsum(math.exp(value - top) for value in scaled))
    return [value - total for value in scaled]


def plain_error_sums(
    exact: list[list[float]], changed: list[list[float]], labels: list[int]
) -> dict[str, float]:
    """Row by row in double precision."""
    sums = {"measured_rows": float(len(exact)), "p_true": 0.0, "max_p_true": 0.0}
    sums["max_log_prob"] = max(
        abs(a - b) for x, y in zip(exact, changed, strict=True) for a, b in zip(x, y, strict=True)
    )
    for temperature in (1, 4, 12):
        sums[f"kl_t{temperature}"] = 0.0
        for x, y in zip(exact, changed, strict=True):
            p, q = log_softmax(x, temperature), log_softmax(y, temperature)
            sums[f"kl_t{temperature}"] += math.fsum(
                math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)
            )
    for x, y, label in zip(exact, changed, labels, strict=True):
        change = abs(math.exp(log_softmax(x, 1)[label]) - math.exp(log_softmax(y, 1)[label]))
        sums["p_true"] += change
        sums["max_p_true"] = max(sums["max_p_true"], change)
    return sums


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 12),
    num_classes=st.integers(2, 9),
    seed=st.integers(0, 2**32),
)
def test_error_sums_equal_a_plain_loop(count: int, num_classes: int, seed: int) -> None:
    exact = some_targets(count, num_classes, seed)
    changed = decoded(exact)
    labels = some_labels(count, num_classes, seed)
    got = LOGITS.error_sums(exact, changed, labels)
    expected = plain_error_sums(exact.tolist(), changed.tolist(), labels.tolist())
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        # float64 rounding of terms up to 1; max_log_prob is measured in float32.
        assert got[key] == pytest.approx(value, rel=1e-6, abs=1e-14 * count), key


def test_coarse_errors_are_measured_too() -> None:
    exact = some_targets(40, 10, 3)
    changed = np.round(exact * 8).astype(np.float32) / np.float32(8)
    labels = some_labels(40, 10, 3)
    got = LOGITS.error_sums(exact, changed, labels)
    expected = plain_error_sums(exact.tolist(), changed.tolist(), labels.tolist())
    assert got == pytest.approx(expected, rel=1e-6)
    assert got["kl_t1"] > 1e-4


def test_no_change_costs_nothing() -> None:
    exact = some_targets(30, 10, 0)
    got = LOGITS.error_sums(exact, exact.copy(), some_labels(30, 10, 0))
    assert got.pop("measured_rows") == 30
    assert set(got.values()) == {0.0}


@pytest.mark.parametrize("count", [1, 2, 1000, 1023, 1024])
def test_up_to_1024_rows_are_all_measured(count: int) -> None:
    exact = some_targets(count, 3, count)
    got = LOGITS.error_sums(exact, decoded(exact), some_labels(count, 3, count))
    assert got["measured_rows"] == count


def test_of_more_rows_1024_spread_over_all_are_measured() -> None:
    count = 5000
    exact = some_targets(count, 3, 1)
    changed = exact.copy()
    changed[[0, -1]] -= np.array([1, 0, 0], dtype=np.float32)  # the first and the last
    got = LOGITS.error_sums(exact, changed, np.zeros(count, dtype=np.int64))
    assert got["measured_rows"] == MEASURED_ROWS == 1024
    alone = LOGITS.error_sums(exact[[0, -1]], changed[[0, -1]], np.zeros(2, dtype=np.int64))
    assert got["p_true"] == pytest.approx(alone["p_true"])
    assert got["max_log_prob"] == 1.0


def test_the_largest_change_is_looked_for_in_every_row() -> None:
    exact = some_targets(3000, 3, 1)
    for row in (1, 2, 1777):
        changed = exact.copy()
        changed[row, 1] -= 0.5
        got = LOGITS.error_sums(exact, changed, np.zeros(3000, dtype=np.int64))
        assert got["max_log_prob"] == pytest.approx(0.5, abs=1e-6)


def test_chunks_are_combined_to_means_over_rows_and_maxima() -> None:
    chunks = [
        {"measured_rows": 3.0, "kl_t1": 6.0, "max_p_true": 0.25},
        {"measured_rows": 1.0, "kl_t1": 2.0, "max_p_true": 0.75},
        {"measured_rows": 4.0, "kl_t1": 0.0, "max_p_true": 0.5},
    ]
    assert LOGITS.combine_error_sums(chunks) == {"kl_t1": 1.0, "max_p_true": 0.75}
    assert LOGITS.combine_error_sums(reversed(chunks)) == {"kl_t1": 1.0, "max_p_true": 0.75}


def test_combined_chunks_are_the_whole() -> None:
    exact = some_targets(60, 10, 5)
    changed, labels = decoded(exact), some_labels(60, 10, 5)
    whole = LOGITS.combine_error_sums([LOGITS.error_sums(exact, changed, labels)])
    cuts = [slice(0, 7), slice(7, 40), slice(40, 60)]
    parts = [LOGITS.error_sums(exact[cut], changed[cut], labels[cut]) for cut in cuts]
    assert LOGITS.combine_error_sums(parts) == pytest.approx(whole, rel=1e-9)


def test_nothing_measured_is_nothing_said() -> None:
    assert LOGITS.combine_error_sums([]) == {}
    assert LOGITS.combine_error_sums([{}, {}]) == {}


def test_a_networks_output_becomes_float32_log_probabilities() -> None:
    output = torch.tensor([[1.0, 2.0, 400.0], [0.0, 0.0, 0.0]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        targets = LOGITS.from_forward(output.to(dtype))
        assert targets.dtype == torch.float32
        expected = torch.log_softmax(output.to(dtype).to(torch.float32), dim=-1)
        assert torch.equal(targets, expected)
    assert torch.equal(LOGITS.from_forward(output)[1], torch.full((3,), 1 / 3).log())


def test_rows_are_right_where_the_largest_is_the_label() -> None:
    targets = np.log(np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]], dtype=np.float32))
    assert LOGITS.num_correct(targets, np.array([0, 0, 0])) == 2
    assert LOGITS.num_correct(targets, np.array([1, 0, 1])) == 0


def test_a_row_has_one_value_a_class() -> None:
    assert LOGITS.row_shape({"num_classes": 100}) == (100,)
    assert list(KINDS) == ["logits", "features", "logsumexp", "heatmaps", "keypoints"]
    assert KINDS["logits"] is LOGITS
