"""`--samples N`: against a plain loop, nested in N, and part of the identity."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdcache.datasets import open_dataset
from kdcache.datasets.samples import balanced_samples
from kdcache.errors import UsageError


def plain_loop(labels: list[int], num_classes: int, count: int) -> list[int] | None:
    """The rule of DESIGN.md, sample by sample; None where a class has too few samples."""
    if count == len(labels):
        return list(range(count))
    room = {c: count // num_classes + (c < count % num_classes) for c in range(num_classes)}
    chosen = []
    for index, label in enumerate(labels):
        if room[label]:
            room[label] -= 1
            chosen.append(index)
    return None if any(room.values()) else chosen


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[int], int]:
    """Labels of nearly balanced classes (so that most counts are possible), in any order."""
    num_classes = draw(st.integers(1, 6))
    sizes = [draw(st.integers(3, 8)) for _ in range(num_classes)]
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return draw(st.permutations(labels)), num_classes


@settings(deadline=None)
@given(case=labelled(), data=st.data())
def test_the_part_is_the_plain_loops(case: tuple[list[int], int], data: st.DataObject) -> None:
    labels, num_classes = case
    count = data.draw(st.integers(1, len(labels)))
    expected = plain_loop(labels, num_classes, count)
    if expected is None:
        with pytest.raises(UsageError, match=f"--samples {count} asks for"):
            balanced_samples(np.array(labels), num_classes, count)
        return
    got = balanced_samples(np.array(labels), num_classes, count)
    assert got.dtype == np.int64
    assert got.tolist() == expected


@settings(deadline=None)
@given(case=labelled(), data=st.data())
def test_a_smaller_part_is_contained_in_a_larger_one(
    case: tuple[list[int], int], data: st.DataObject
) -> None:
    labels, num_classes = case
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(labels))] * 2)))
    assume(plain_loop(labels, num_classes, small) is not None)
    assume(plain_loop(labels, num_classes, large) is not None)
    inner, outer = (balanced_samples(np.array(labels), num_classes, n) for n in (small, large))
    assert set(inner.tolist()) <= set(outer.tolist())


def test_the_remainder_goes_to_the_lowest_classes() -> None:
    labels = np.array([2, 2, 1, 0, 1, 0, 2, 0])
    assert balanced_samples(labels, 3, 5).tolist() == [0, 2, 3, 4, 5]
    assert balanced_samples(labels, 3, 1).tolist() == [3]


@pytest.mark.parametrize("count", [-1, 0, 9])
def test_a_count_outside_the_dataset_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=rf"must lie in 1 to 8 \(the dataset\), got {count}"):
        balanced_samples(np.array([2, 2, 1, 0, 1, 0, 2, 0]), 3, count)


def test_too_few_of_a_class_is_an_error_that_says_what_is_possible() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0])
    with pytest.raises(
        UsageError, match="asks for 3 samples of class 1, which has 2; take at most 4 samples"
    ):
        balanced_samples(labels, 2, 6)
    assert balanced_samples(labels, 2, 4).tolist() == [0, 1, 4, 5]


def test_a_part_keeps_the_original_integers_and_has_its_own_identity() -> None:
    whole = open_dataset("digits")
    part = open_dataset("digits", samples=57)
    assert len(part) == 57
    assert not part.is_whole
    assert part.index_N.tolist() == plain_loop(whole.labels(whole.index_N).tolist(), 10, 57)
    assert np.array_equal(part.images(part.index_N), whole.images(part.index_N))
    assert np.array_equal(part.labels(part.index_N), whole.labels(part.index_N))
    identities = [dataset.identity() for dataset in (whole, part, whole.select(58))]
    assert len({identity["index_sha256"] for identity in identities}) == 3
    assert whole.select(57).identity() == part.identity()
    assert whole.select(1438).identity() == whole.identity() == whole.select(None).identity()


def test_a_subset_is_ascending_and_knows_its_range() -> None:
    digits = open_dataset("digits")
    assert digits.subset(np.array([9, 2, 5])).index_N.tolist() == [2, 5, 9]
    for wrong in ([-1, 3], [3, 1438]):
        with pytest.raises(UsageError, match="has the samples 0 to 1437, but samples"):
            digits.subset(np.array(wrong))


def test_changing_any_sampled_pixel_label_or_index_changes_the_identity() -> None:
    digits = open_dataset("digits", samples=100)  # fewer than 256: every pixel is sampled
    assert digits.subset(digits.index_N[1:]).identity() != digits.identity()
    shifted = digits.subset(digits.index_N + 1).identity()
    assert shifted["pixels_sha256"] != digits.identity()["pixels_sha256"]
    assert shifted["labels_sha256"] != digits.identity()["labels_sha256"]
