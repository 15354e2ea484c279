"""What the encoder benchmark measures with: against the package's own sums, and known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.fidelity import confidence, mean_loss, measure_loss
from benchmarks.thousand_classes import PARTS, pseudo_classes, top_k_decoded
from kdcache.encode import LOGITS


def log_probs(rows: int, classes: int, seed: int, scale: float = 3.0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(scale=scale, size=(rows, classes))
    rows_NC: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return rows_NC.astype(np.float32)


@given(seed=st.integers(0, 1000), noise=st.floats(0.001, 0.5))
def test_it_agrees_with_what_commit_records_state(seed: int, noise: float) -> None:
    """Two implementations, one in NumPy and one in torch, on the same rows."""
    exact = log_probs(50, 20, seed)
    decoded = exact + np.float32(noise) * log_probs(50, 20, seed + 1)
    labels = np.random.default_rng(seed).integers(0, 20, 50)
    stated = LOGITS.combine_error_sums([LOGITS.error_sums(exact, decoded, labels)])
    loss = measure_loss(exact, decoded, labels)
    for temperature, value in loss.kl.items():
        assert value == pytest.approx(stated[f"kl_t{temperature}"], rel=1e-9, abs=1e-15)
    assert loss.p_mean == pytest.approx(stated["p_true"])
    assert loss.p_max == pytest.approx(stated["max_p_true"])
    assert loss.worst == max(loss.kl.values())


def test_parts_of_many_rows_are_put_together() -> None:
    exact, decoded = log_probs(2500, 5, 0), log_probs(2500, 5, 1)
    labels = np.arange(2500) % 5
    halves = [measure_loss(exact[half], decoded[half], labels[half]) for half in (
        slice(0, 1250), slice(1250, None)
    )]  # fmt: skip
    whole = measure_loss(exact, decoded, labels)
    both = mean_loss(halves)
    assert both.kl == pytest.approx(whole.kl)
    assert (both.p_mean, both.p_max) == pytest.approx((whole.p_mean, whole.p_max))


def test_flips_are_decisions_that_change() -> None:
    exact = np.log(np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9]], dtype=np.float32))
    decoded = np.log(np.array([[0.4, 0.6], [0.58, 0.42], [0.1, 0.9]], dtype=np.float32))
    labels = np.zeros(3, dtype=np.int64)
    assert confidence(exact, labels) == pytest.approx([0.6, 0.6, 0.1])
    found = measure_loss(exact, decoded, labels, np.array([0.5, 0.5, 0.5]))
    assert found.flips == pytest.approx(1 / 3)
    assert measure_loss(exact, exact, labels, np.array([0.5, 0.5, 0.5])).flips == 0


def test_top_k_keeps_the_largest_and_the_mass() -> None:
    exact = log_probs(30, 40, 0)
    decoded = top_k_decoded(exact, 8)
    for row, again in zip(exact, decoded, strict=True):
        top = np.argsort(row)[-8:]
        assert np.abs(again[top] - row[top]).max() <= 2.0**-11 * np.abs(row[top]).max()
        rest = np.delete(again, top)
        assert (rest == rest[0]).all()
        assert np.exp(rest).sum() == pytest.approx(np.exp(np.delete(row, top)).sum(), rel=0.02)


def test_pseudo_classes_split_every_class_and_find_clusters() -> None:
    labels = np.repeat(np.arange(3), 40)
    truth = np.tile(np.repeat(np.arange(2), 20), 3)
    features = np.random.default_rng(0).normal(scale=0.01, size=(120, 2))
    features[:, 0] += truth
    found = pseudo_classes(features.astype(np.float32), labels)
    assert (found // PARTS == labels).all()
    assert not {(c, t) for c, t in zip(found, truth, strict=True)} & {
        (c, 1 - t) for c, t in zip(found, truth, strict=True)
    }
