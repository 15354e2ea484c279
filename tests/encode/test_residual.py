"""`residual` and `coarse`: predicting loses nothing, every value within the bound, or refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.encode import (
    ENCODERS,
    Coarse,
    Residual,
)
from kdcache.encode.levels import Levels
from tests.encode.fitted import KINDS, LEVELS, encoded, encoders, make, plain_decode, plain_levels

Case = tuple[Residual, NDArray[np.float32], NDArray[np.int64]]


# Round trips


@settings(deadline=None, max_examples=100)
@given(case=encoded())
def test_every_value_stays_within_the_bound(case: Case) -> None:
    encoder, targets, labels_B = case
    stored = encoder.encode(targets, labels_B)
    assert stored.dtype == np.uint8
    assert stored.shape == (len(targets), *encoder.stored_row(targets.shape[1:]))
    error = np.abs(encoder.round_trip(stored, labels_B).astype(np.float64) - targets)
    bound = encoder.bound(targets)
    assert (error <= bound).all()
    # And what the array states is the bound of a reader that knows nothing of knees.
    stated = {key: encoder.describe()[key] for key in ("absolute_error", "root_error")}
    root = np.sqrt(np.abs(targets.astype(np.float64)))
    assert (error <= stated["absolute_error"] + stated["root_error"] * root).all()
    assert encoder.describe()["relative_error"] == 0.0


@settings(deadline=None, max_examples=100)
@given(case=encoded())
def test_predicting_loses_nothing(case: Case) -> None:
    """Whatever the table and the labels: unpacked are the rounded levels, modulo nothing."""
    encoder, targets, labels_B = case
    unpacked = encoder.unpack(encoder.encode(targets, labels_B), labels_B)
    levels = unpacked[:, : encoder.num_classes].astype(np.int64)
    off = levels - plain_levels(encoder, targets)
    assert np.abs(off).max(initial=0) <= 1  # a tie, but for the float32 root
    without = type(encoder)(
        levels=encoder.levels, table=bytes(encoder.num_classes), num_classes=encoder.num_classes
    )
    plain = without.unpack(without.encode(targets, labels_B), labels_B)
    assert np.array_equal(levels, plain[:, : encoder.num_classes])


@settings(deadline=None, max_examples=100)
@given(case=encoded())
def test_a_stored_row_is_what_the_page_says(case: Case) -> None:
    encoder, targets, labels_B = case
    stored = encoder.encode(targets[:3], labels_B[:3])
    decoded = encoder.round_trip(stored, labels_B[:3])
    described = json.loads(json.dumps(encoder.describe()))
    for row, label, expected in zip(stored, labels_B[:3], decoded, strict=True):
        got = plain_decode(described, encoder.num_classes, np.asarray(row), int(label))
        assert np.array_equal(got, expected)
    assert (stored[:, encoder.num_classes] != 128).all()  # which says that no target is here


@settings(deadline=None, max_examples=50)
@given(case=encoded())
def test_a_row_does_not_depend_on_its_neighbours(case: Case) -> None:
    encoder, targets, labels_B = case
    together = encoder.encode(targets, labels_B)
    alone = [encoder.encode(targets[i : i + 1], labels_B[i : i + 1]) for i in range(len(targets))]
    assert np.array_equal(np.concatenate(alone), together)
    decoded = encoder.round_trip(together, labels_B)
    one_by_one = [encoder.round_trip(alone[i], labels_B[i : i + 1]) for i in range(len(targets))]
    assert np.array_equal(np.concatenate(one_by_one), decoded)


@settings(deadline=None, max_examples=50)
@given(case=encoded())
def test_memory_order_and_strides_do_not_matter(case: Case) -> None:
    encoder, targets, labels_B = case
    expected = encoder.encode(targets, labels_B)
    assert np.array_equal(encoder.encode(np.asfortranarray(targets), labels_B), expected)
    wide = np.zeros((len(targets) * 2, targets.shape[1] * 3), dtype=np.float32)
    wide[::2, ::3] = targets
    assert np.array_equal(encoder.encode(wide[::2, ::3], labels_B), expected)
    decoded = encoder.round_trip(expected, labels_B)
    room = np.zeros((len(expected) * 2, expected.shape[1] + 5), dtype=np.uint8)
    room[::2, 3:-2] = expected
    assert np.array_equal(encoder.round_trip(room[::2, 3:-2], labels_B), decoded)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_no_rows(kind: str) -> None:
    encoder = make(kind)
    none = np.empty(0, dtype=np.int64)
    stored = encoder.encode(np.empty((0, 5), dtype=np.float32), none)
    assert stored.shape == (0, *encoder.stored_row((5,)))
    assert encoder.round_trip(stored, none).shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_class_is_certain(kind: str) -> None:
    encoder = make(kind, classes=1)
    stored = encoder.encode(np.zeros((2, 1), dtype=np.float32), np.zeros(2, dtype=np.int64))
    assert not encoder.round_trip(stored, np.zeros(2, dtype=np.int64)).any()


# Several mentors side by side


@settings(deadline=None, max_examples=100)
@given(data=st.data(), kind=st.sampled_from([Residual, Coarse]), mentors=st.integers(1, 4))
def test_decoding_together_is_decoding_each(
    data: st.DataObject, kind: type[Residual], mentors: int
) -> None:
    first, targets, labels_B = data.draw(encoded(kind))
    several = [first]
    for _ in range(mentors - 1):
        other = data.draw(encoders(kind))
        rows = np.resize(np.frombuffer(other.table, dtype=np.uint8), len(first.table)).tobytes()
        several.append(kind(levels=other.levels, table=rows, num_classes=first.num_classes))
    assert len({encoder.family for encoder in several}) == 1
    held = [t.levels.lowest for t in several]
    targets = targets.clip(np.float32(max(held)) * np.float32(0.999), 0)
    labels = torch.from_numpy(labels_B)
    rows_M = [torch.from_numpy(e.unpack(e.encode(targets, labels_B), labels_B)) for e in several]
    for count in (1, len(targets)):  # one row alone is laid out in memory like no others
        together = kind.decode_together(several, torch.device("cpu"))
        stacked = torch.stack([rows[:count] for rows in rows_M], dim=1)
        decoded_BMC = together(stacked, labels[:count])
        assert decoded_BMC.dtype == torch.float32
        for number, encoder in enumerate(several):
            alone = encoder.decode(rows_M[number][:count], labels[:count])
            assert torch.equal(decoded_BMC[:, number], alone)
            expected = encoder.round_trip(
                encoder.encode(targets[:count], labels_B[:count]), labels_B[:count]
            )
            assert np.array_equal(alone.numpy(), expected)


def test_families_are_of_one_kind_and_one_number_of_classes() -> None:
    assert (
        make("residual", 5).family
        == make("residual", 5, Levels(fine=9.0, coarse=9.0, knee=3)).family
    )
    different = {make("residual", 5).family, make("residual", 6).family, make("coarse", 5).family}
    assert len({*different, *(encoder.family for encoder in ENCODERS.values())}) == 7


def test_decoding_leaves_resident_rows_as_they_are() -> None:
    for kind in KINDS:
        encoder, labels_B = make(kind), np.array([0, 3])
        targets = np.log(np.full((2, 5), 0.2, dtype=np.float32))
        rows = torch.from_numpy(encoder.unpack(encoder.encode(targets, labels_B), labels_B))
        before = rows.clone()
        for _ in range(2):
            encoder.decode(rows, torch.from_numpy(labels_B))
        assert torch.equal(rows, before)


# The label's probability


def softmax_of_label(log_probs: NDArray[np.float32], labels_B: NDArray[np.int64]) -> NDArray[Any]:
    z = torch.from_numpy(log_probs.astype(np.float64))
    probability = torch.softmax(z, -1).gather(1, torch.from_numpy(labels_B)[:, None])
    return np.asarray(probability[:, 0])


@settings(deadline=None, max_examples=100)
@given(data=st.data(), classes=st.sampled_from([2, 3, 10, 300]), spread=st.floats(0, 12))
def test_coarse_keeps_the_probability_of_the_label(
    data: st.DataObject, classes: int, spread: float
) -> None:
    """However coarse the levels are."""
    fine = 2.0 ** data.draw(st.floats(-2, 5))
    knee = data.draw(st.integers(0, 60))
    levels = Levels(fine=fine, coarse=fine / data.draw(st.floats(1, 4)), knee=knee)
    encoder = Coarse(levels=levels, table=bytes(classes), num_classes=classes)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    logits = torch.from_numpy(random.normal(size=(20, classes)) * spread).to(torch.float32)
    targets = torch.log_softmax(logits, -1).numpy().clip(encoder.levels.lowest, 0)
    labels_B = random.integers(0, classes, 20)
    decoded = encoder.round_trip(encoder.encode(targets, labels_B), labels_B)
    at = np.arange(20), labels_B
    assert np.array_equal(decoded[at], targets[at])  # its value bit for bit
    exact, kept = (softmax_of_label(each, labels_B) for each in (targets, decoded))
    # A float32 log-probability of magnitude m moves p by m 2^-24, and so does the shift.
    magnitude = 1 + np.abs(targets).min(axis=1) + np.abs(targets[at])
    assert (np.abs(kept - exact) <= 8 * 2.0**-24 * magnitude).all()


def test_coarse_gives_classes_but_the_labels_one_shift() -> None:
    encoder = make("coarse", levels=Levels(fine=1.0, coarse=1.0, knee=10))
    targets = torch.log_softmax(torch.tensor([[2.0, 0.3, -1.0, -4.0, -9.0]]), -1).numpy()
    labels_B = np.array([1])
    stored = encoder.encode(targets, labels_B)
    rows = torch.from_numpy(encoder.unpack(stored, labels_B))
    shifts = encoder.decode(rows, torch.from_numpy(labels_B)) - Residual.decode(
        encoder, rows[:, :5]
    )
    others = shifts[0, [0, 2, 3, 4]]
    assert others.std() < 1e-6
    assert others.abs().max() > 1e-3  # or this would show nothing


def test_coarse_decodes_by_labels_and_encoders_predict_by_them() -> None:
    targets = np.log(np.full((1, 5), 0.2, dtype=np.float32))
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"^{kind} predicts targets by label: give"):
            make(kind).encode(targets)
    rows = torch.zeros(1, 13, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"^coarse keeps the label's value apart: give the labels$"
    ):
        make("coarse").decode(rows)
    assert make("coarse").needs_labels
    assert not make("residual").needs_labels


# What it cannot hold


BEYOND = [1e-3, 2.0**-149, 1.0, math.inf, math.nan, -math.inf, -1e30]


@settings(deadline=None)
@given(case=encoded(), value=st.sampled_from(BEYOND), at=st.integers(0, 10**6))
@example(case=(make(), np.zeros((1, 5), np.float32), np.zeros(1, np.int64)), value=math.nan, at=0)
def test_what_it_cannot_hold_is_refused_never_clipped(case: Case, value: float, at: int) -> None:
    encoder, targets, labels_B = case
    targets.ravel()[at % targets.size] = value
    with pytest.raises(ValueError, match=f"^{encoder.name} holds .* to 0 here, a target is"):
        encoder.encode(targets, labels_B)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lowest_target_has_the_last_level(kind: str) -> None:
    encoder = make(kind)
    lowest = np.float32(encoder.levels.lowest)
    assert lowest == np.float32(-((224 / 30 + 31 / 2.4) ** 2))
    targets = np.array([[-1.0, lowest, -2.0, -3.0, -4.0]], dtype=np.float32)
    levels = encoder.unpack(encoder.encode(targets, np.array([0])), np.array([0]))
    assert levels[0, 1] == 255
    targets[0, 1] = np.nextafter(lowest, np.float32(-np.inf)) * np.float32(1 + 2**-20)
    with pytest.raises(ValueError, match=rf"holds log-probabilities from {lowest:.1f} to 0 here"):
        encoder.encode(targets, np.array([0]))


def test_the_bound_holds_around_every_level_and_every_middle() -> None:
    """All float32 within 30 of where rounding changes its mind, on both sides of the knee."""
    for levels in (
        LEVELS,
        Levels(fine=9.5, coarse=9.5, knee=20),
        Levels(fine=64.0, coarse=2.0, knee=50),
    ):
        halves = np.arange(0, 511) / 2
        root = np.where(
            halves <= levels.knee,
            halves / levels.fine,
            levels.knee / levels.fine + (halves - levels.knee) / levels.coarse,
        )
        bits = (-(root**2)).astype(np.float32).view(np.int32)
        around = np.arange(-30, 31, dtype=np.int32)
        targets = (bits[:, None] + around).astype(np.int32).view(np.float32).ravel()
        targets = targets[(targets <= 0) & (targets >= np.float32(levels.lowest))][:, None]
        encoder = Residual(levels=levels, table=bytes(1), num_classes=1)
        labels_B = np.zeros(len(targets), dtype=np.int64)
        decoded = encoder.round_trip(encoder.encode(targets, labels_B), labels_B)
        error, bound = np.abs(decoded.astype(np.float64) - targets), encoder.bound(targets)
        assert (error <= bound).all()
        assert (error / bound).max() > 0.99  # and it is no larger than it must be
