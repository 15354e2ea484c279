"""Fitting: the fidelity asked for, on rows that were not seen; or a refusal with numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.datasets import open_dataset
from kdcache.encode import FITTED, Encoder, Residual, UnreachableFidelity, encoder_from_description
from kdcache.encode.levels import Levels
from kdcache.encode.logits import mean_divergences
from kdcache.mentors import MentorPool, RunShape, load_mentors
from kdcache.store import chunk_payload
from kdcache.views import make_recipe
from tests.encode.fitted import log_probabilities

MENTORS = ("r20", "r32", "r44", "r56")
SAMPLES = 600
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


def worst(encoder: Encoder, targets_KC: NDArray[np.float32], labels_K: NDArray[np.int64]) -> float:
    """The largest mean KL of the three temperatures."""
    decoded = encoder.round_trip(encoder.encode(targets_KC, labels_K), labels_K)
    return max(mean_divergences(targets_KC, decoded).values())


def fit(name: str, rows: Rows, fidelity: float) -> Residual:
    encoder = FITTED[name].fit(*rows, fidelity)
    assert isinstance(encoder, Residual)
    assert encoder.name == name
    described = encoder.describe()
    assert encoder_from_description(described, rows[0].shape[1]) == encoder  # it can be read again
    return encoder


def part(rows: Rows, which: slice) -> Rows:
    return rows[0][which], rows[1][which]


# Real mentors


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """Log-probabilities (600, 100) of crop-flip views of training images, and labels."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDCACHE_HOME", str(tmp_path_factory.mktemp("home")))
        dataset = open_dataset("cifar100", samples=SAMPLES)
        recipe = make_recipe("crop-flip", seed=1, **dataset.view_parameters)
        pool = MentorPool(
            load_mentors(MENTORS, dataset), device=torch.device("cpu"), run_shape=RunShape(batch=64)
        )
        pixels = recipe(dataset.images(dataset.index_N), dataset.index_N, 7)
        targets_BMC = pool.run(pixels).numpy()
    labels_B = dataset.labels(dataset.index_N)
    order = np.random.default_rng(0).permutation(SAMPLES)
    return {
        name: (np.ascontiguousarray(targets_BMC[order, column]), labels_B[order])
        for column, name in enumerate(pool.names)
    }


@pytest.mark.parametrize("mentor", MENTORS)
@pytest.mark.parametrize(
    ("name", "fidelity"), [("residual", 1e-4), ("residual", 1e-3), ("coarse", 1e-3)]
)
def test_the_fidelity_holds_on_rows_that_were_not_seen(
    real: dict[str, Rows], mentor: str, name: str, fidelity: float
) -> None:
    seen, held_out = part(real[mentor], slice(0, 400)), part(real[mentor], slice(400, None))
    encoder = fit(name, seen, fidelity)
    assert 0.9 * 0.95 * fidelity <= worst(encoder, *seen) <= 0.95 * fidelity
    assert worst(encoder, *held_out) <= 1.1 * fidelity
    assert encoder.levels.lowest <= 1.5 * seen[0].min()


def test_residual_rows_are_small(real: dict[str, Rows]) -> None:
    """Fitted to 400 rows, 4 a label: more rows predict better."""
    sizes = {}
    for mentor, rows in real.items():
        encoder = fit("residual", part(rows, slice(0, 400)), 1e-4)
        stored = encoder.encode(*part(rows, slice(400, None)))
        sizes[mentor] = len(chunk_payload(stored, len(stored), encoder)) / len(stored)
        unpredicted = Residual(levels=encoder.levels, table=bytes(100), num_classes=100)
        plain = unpredicted.encode(*part(rows, slice(400, None)))
        assert sizes[mentor] < len(chunk_payload(plain, len(plain), unpredicted)) / len(plain)
    assert np.mean(list(sizes.values())) <= 71, sizes


@pytest.mark.slow
def test_residual_rows_have_68_bytes(real_data: Path) -> None:
    """Fitted to 2,000 rows, measured on 2,000 others."""
    dataset = open_dataset("cifar100", samples=4000)
    recipe = make_recipe("crop-flip", seed=1, **dataset.view_parameters)
    pool = MentorPool(
        load_mentors(MENTORS, dataset), device=torch.device("cpu"), run_shape=RunShape(batch=64)
    )
    batches = [
        pool.run(recipe(dataset.images(index_B), index_B, 7)).numpy()
        for index_B in np.array_split(dataset.index_N, 63)
    ]
    targets_BMC, labels_B = np.concatenate(batches), dataset.labels(dataset.index_N)
    order = np.random.default_rng(0).permutation(4000)
    sizes = []
    for column in range(len(MENTORS)):
        rows = np.ascontiguousarray(targets_BMC[order, column]), labels_B[order]
        encoder = fit("residual", part(rows, slice(0, 2000)), 1e-4)
        held_out = part(rows, slice(2000, None))
        assert worst(encoder, *held_out) <= 1.1e-4
        stored = encoder.encode(*held_out)
        sizes.append(len(chunk_payload(stored, len(stored), encoder)) / len(stored))
    assert max(sizes) <= 68, sizes
    assert np.mean(sizes) <= 66.5, sizes


# Any targets


def random_rows(rows: int, classes: int, seed: int = 0, spread: float = 4.0) -> Rows:
    random = np.random.default_rng(seed)
    return log_probabilities(random, rows, classes, spread), random.integers(0, classes, rows)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("fidelity", [1e-12, 1e-7])
def test_a_fidelity_that_nobody_reaches_is_refused_with_the_numbers(
    name: str, fidelity: float
) -> None:
    rows = random_rows(200, 10)
    message = (
        rf"^{name} has no levels within a mean KL of {fidelity:g} .* nearest that was tried has"
    )
    with pytest.raises(UnreachableFidelity, match=message) as caught:
        fit(name, rows, fidelity)
    assert f"down to {rows[0].min():.4g};" in str(caught.value)
    assert 0.95 * fidelity < caught.value.nearest < 1


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("fidelity", [0.1, 10.0, 1e9])
def test_any_larger_fidelity_is_easily_held(name: str, fidelity: float) -> None:
    """And the encoder is one that can be read again, however coarse."""
    rows = random_rows(200, 10)
    assert worst(fit(name, rows, fidelity), *rows) <= fidelity


@pytest.mark.parametrize("name", FITTED)
def test_fewer_rows_than_classes(name: str) -> None:
    """Most labels were never seen: theirs are the means over all."""
    targets, _ = random_rows(5, 40)
    labels_B = np.array([3, 3, 3, 7, 9])
    encoder = fit(name, (targets, labels_B), 1e-3)
    table = np.frombuffer(encoder.table, dtype=np.uint8).reshape(40, 40)
    never = np.delete(table, [3, 7, 9], axis=0)
    assert (never == never[0]).all()
    assert not np.array_equal(table[3], never[0])
    others = random_rows(50, 40, seed=1)
    assert worst(encoder, *others) < 1e-2


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(("classes", "rows_of_table"), [(1024, 1024), (1025, 1)])
def test_many_classes_share_one_row(name: str, classes: int, rows_of_table: int) -> None:
    rows = random_rows(20, classes)
    encoder = fit(name, rows, 1e-3)
    assert len(encoder.table) == rows_of_table * classes
    assert worst(encoder, *rows) <= 1e-3


def test_more_classes_than_a_document_holds_are_refused() -> None:
    targets = np.full((1, 2**20 + 1), -20.0, dtype=np.float32)
    for name in FITTED:
        with pytest.raises(UnreachableFidelity, match="is for at most 1,048,576 classes"):
            FITTED[name].fit(targets, np.zeros(1, dtype=np.int64), 1e-3)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("kind", ["uniform", "certain", "the same", "one row", "two classes"])
def test_odd_mentors(name: str, kind: str) -> None:
    targets, labels_B = random_rows(50, 10)
    if kind == "uniform":
        targets = np.full((50, 10), -np.log(10.0), dtype=np.float32)
    elif kind == "certain":
        targets = np.full((50, 10), -300.0, dtype=np.float32)
        targets[np.arange(50), labels_B] = 0.0
    elif kind == "the same":
        targets = np.repeat(targets[:1], 50, axis=0)
    elif kind == "one row":
        targets, labels_B = targets[:1], labels_B[:1]
    else:
        targets, labels_B = random_rows(50, 2)
    encoder = fit(name, (targets, labels_B), 1e-3)
    assert worst(encoder, targets, labels_B) <= 1e-3


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("lowest", [-1e12, -1e30, -3e38])
def test_targets_that_no_level_reaches_are_refused(name: str, lowest: float) -> None:
    targets, labels_B = random_rows(20, 10)
    targets[4, 2] = lowest
    with pytest.raises(UnreachableFidelity, match=f"^{name} has no levels within"):
        fit(name, (targets, labels_B), 1e-3)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(FITTED)),
    classes=st.sampled_from([2, 5, 30]),
    rows=st.integers(1, 60),
    spread=st.floats(0, 20),
    fidelity=st.sampled_from([1e-4, 1e-3, 1e-2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_fitted_holds_or_is_refused(
    name: str, classes: int, rows: int, spread: float, fidelity: float, seed: int
) -> None:
    targets, labels_B = random_rows(rows, classes, seed, spread)
    try:
        encoder = fit(name, (targets, labels_B), fidelity)
    except UnreachableFidelity:
        assert fidelity < 1e-2 or spread > 10  # a step of 1/4 in the root holds for what is usual
        return
    assert worst(encoder, targets, labels_B) <= fidelity
    again = fit(name, (targets.copy(), labels_B.copy()), fidelity)
    assert again == encoder  # bit for bit


@pytest.mark.parametrize("scale", [1, 4, 8])
@pytest.mark.parametrize("fidelity", [1e-2, 1e-3, 1e-4])
def test_residual_finds_what_a_search_of_every_fineness_finds(scale: int, fidelity: float) -> None:
    """Sharper mentors reach lower, and leave fewer levels for what matters."""
    random = np.random.default_rng(3)
    targets_KC, labels_K = log_probabilities(random, 300, 20), random.integers(0, 20, 300)
    sharper = torch.from_numpy(targets_KC * scale).log_softmax(-1).numpy()
    reach = min(-400.0, 2 * float(sharper.min()))

    def divergence(fine: float) -> float:
        beyond = (-reach) ** 0.5 * 1.000001 - 224 / fine
        coarse = fine if beyond <= 0 else min(fine, 31 / beyond)
        levels = Levels(fine=fine, coarse=coarse, knee=224)
        encoder = Residual(levels=levels, table=bytes(20), num_classes=20)
        return worst(encoder, sharper, labels_K)

    grid = [2 ** (n / 8) for n in range(-8, 56)]
    possible = [fine for fine in grid if divergence(fine) <= 0.9 * fidelity]
    if not possible:
        return
    found = fit("residual", (sharper, labels_K), fidelity)
    assert worst(found, sharper, labels_K) <= fidelity
    assert found.levels.fine <= 1.25 * min(possible)  # a divergence wiggles
