"""Philox: the published numbers, addressed by what they are for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.philox import Purpose, below, permutation, words

Words = tuple[int, int, int, int]
WORD = 0xFFFFFFFF


def scalar_philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10 one block at a time, as the paper's figure draws it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def scalar_words(seed: int, purpose: int, index: int, minor: int) -> Words:
    counter = (index & WORD, index >> 32, minor, purpose)
    return scalar_philox(counter, (seed & WORD, seed >> 32))


# Random123's kat_vectors, philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_the_reference_gives_the_published_answers(
    counter: Words, key: tuple[int, int], answer: Words
) -> None:
    assert scalar_philox(counter, key) == answer


def test_words_of_zeros_are_the_published_answer() -> None:
    # The other two published counters are no address: their high words are not an index, a purpose.
    assert tuple(words(0, Purpose.VIEW, [0], 0)[0].tolist()) == KNOWN_ANSWERS[0][2]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    purpose=st.sampled_from(Purpose),
    index=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5),
    minor=st.integers(0, 2**32 - 1),
)
def test_words_equal_the_reference_at_any_address(
    seed: int, purpose: Purpose, index: list[int], minor: int
) -> None:
    got = words(seed, purpose, np.array(index), minor)
    assert got.dtype == np.uint32
    assert got.tolist() == [list(scalar_words(seed, purpose, i, minor)) for i in index]


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("index", [0, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("minor", [0, 2**32 - 1])
def test_words_equal_the_reference_where_words_carry_over(
    seed: int, index: int, minor: int
) -> None:
    got = words(seed, Purpose.DROPOUT, [index], minor)
    assert got.tolist() == [list(scalar_words(seed, 4, index, minor))]


def test_purposes_are_part_of_the_format() -> None:
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "VIEW": 0,
        "EPOCH_ORDER": 1,
        "SAMPLED_PIXELS": 2,
        "REPLAY_PROOF": 3,
        "DROPOUT": 4,
        "RECOMPUTED_ROWS": 5,
        "LOSS_WEIGHTS": 6,
        "BLOCK_ORDER": 7,
        "CALIBRATION": 8,
        "TAKEN_ROWS": 9,
        "VIEW_DETAIL": 10,
        "PROOF_PIXELS": 11,
    }


def test_no_purpose_view_or_index_shares_its_four_words_with_another() -> None:
    index = np.concatenate([np.arange(200), 2**32 + np.arange(200)])
    blocks = np.concatenate(
        [words(7, purpose, index, minor) for purpose in Purpose for minor in range(5)]
    )
    assert len(np.unique(blocks, axis=0)) == len(Purpose) * 5 * 400


def test_a_scalar_and_an_empty_address_are_addresses() -> None:
    assert words(3, Purpose.VIEW, 9).tolist() == words(3, Purpose.VIEW, [9]).tolist()
    assert words(3, Purpose.VIEW, np.arange(0)).shape == (0, 4)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must lie in \[0, 2\^64\), got {seed}"):
        words(seed, Purpose.VIEW, [0])


@pytest.mark.parametrize("minor", [-1, 2**32])
def test_a_view_or_epoch_out_of_range_is_refused(minor: int) -> None:
    with pytest.raises(ValueError, match=rf"view or epoch must lie in .* got {minor}"):
        words(0, Purpose.VIEW, [0], minor)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="index must not be negative, got -3"):
        words(0, Purpose.VIEW, [5, -3, -1])


@given(word=st.integers(0, WORD), bound=st.integers(1, 2**31))
def test_below_is_the_high_half_of_the_product(word: int, bound: int) -> None:
    got = below(np.array([word], dtype=np.uint32), bound).tolist()
    assert got == [word * bound // 2**32]
    assert 0 <= got[0] < bound


def test_below_reaches_both_ends() -> None:
    ends = np.array([0, WORD], dtype=np.uint32)
    assert below(ends, 9).tolist() == [0, 8]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    purpose=st.sampled_from(Purpose),
    minor=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
)
def test_a_permutation_holds_every_number_once(
    seed: int, purpose: Purpose, minor: int, count: int
) -> None:
    assert sorted(permutation(seed, purpose, minor, count).tolist()) == list(range(count))


def test_a_permutation_sorts_the_first_two_words() -> None:
    keys = [scalar_words(11, Purpose.EPOCH_ORDER, i, 4)[:2] for i in range(100)]
    expected = sorted(range(100), key=keys.__getitem__)
    assert permutation(11, Purpose.EPOCH_ORDER, 4, 100).tolist() == expected


def test_equal_first_words_are_told_apart_by_the_second() -> None:
    count = 200_000
    keys = words(3, Purpose.EPOCH_ORDER, np.arange(count), 0)
    assert len(np.unique(keys[:, 0])) < count
    expected = np.lexsort((keys[:, 1], keys[:, 0]))
    assert np.array_equal(permutation(3, Purpose.EPOCH_ORDER, 0, count), expected)


def test_a_permutation_depends_on_every_argument() -> None:
    orders = [
        permutation(seed, purpose, minor, 50).tolist()
        for seed in (0, 1, 2**32)
        for purpose in Purpose
        for minor in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
    longer = permutation(0, Purpose.EPOCH_ORDER, 0, 51)
    assert sorted(longer.tolist()) == list(range(51))


def test_first_values_of_a_permutation_are_pinned() -> None:
    assert permutation(0, Purpose.EPOCH_ORDER, 0, 50_000)[:6].tolist() == [
        18818,
        7194,
        35061,
        4985,
        38,
        5661,
    ]
    assert permutation(2**40 + 1, Purpose.SAMPLED_PIXELS, 3, 10).tolist() == [
        6,
        9,
        8,
        1,
        2,
        0,
        3,
        7,
        5,
        4,
    ]
