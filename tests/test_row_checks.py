"""Rows that are run again before chunks are taken: which, in what passes, and what they find."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.encode import HEATMAPS, LOGITS, find_encoder
from kdcache.mentors import Mentor, MentorPool, RunShape
from kdcache.row_checks import RowChecks, unlike
from kdcache.store import ChunkKey, TargetStore, read_payload_of

VIEWS = 3
SHAPE = RunShape(batch=64)


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(params=["float16", "float32", "sqrt8-zstd", "residual", "coarse"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
) -> TargetStore:
    return precomputed(tmp_path / "s", digits, digits_mentors, request.param)


def precomputed(
    root: Path, digits: ImageDataset, mentors: list[Mentor], encoder: str
) -> TargetStore:
    return kdcache.precompute_targets(
        digits,
        mentors,
        store=root,
        views=VIEWS,
        encoder=encoder,
        batch_size=64,
        device="cpu",
        features=encoder == "float16",
    )


def checks_of(
    store: TargetStore, digits: ImageDataset, mentors: list[Mentor], seed: int = 0, rows: int = 2
) -> RowChecks:
    """Of every chunk of the store."""
    pool = MentorPool(mentors, device=torch.device("cpu"), run_shape=SHAPE)
    chunks = {(one.manifest.name, one.kind.name): list(one.commits) for one in store.sound_targets}
    return RowChecks(pool, digits, store.recipe, store.manifest, chunks, seed=seed, rows=rows)


def verdicts(checks: RowChecks, store: TargetStore) -> dict[tuple[str, ChunkKey], str | None]:
    return {
        (one.title, key): checks.refuse(one, key, read_payload_of(store, one, key).payload)
        for one in store.sound_targets
        for key in one.commits
    }


def test_what_the_mentors_said_is_taken(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    for seed in range(3):
        checks = checks_of(store, digits, digits_mentors, seed)
        assert checks.run()
        assert set(verdicts(checks, store).values()) == {None}


def test_what_another_mentor_said_is_always_found(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    """Every chunk is wrong throughout, but for its kinds' shapes: one row of each is enough."""
    swapped = [
        type(mentor)(**{**vars(mentor), "network": other.network})
        for mentor, other in zip(digits_mentors, reversed(digits_mentors), strict=True)
    ]
    checks = checks_of(store, digits, swapped, rows=1)
    assert checks.run()
    found = verdicts(checks, store)
    assert None not in found.values()
    assert all(
        "the mentor says" in str(why) or "has the shape" in str(why) for why in found.values()
    )


def test_a_wrong_row_is_found_as_often_as_is_said(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    """w wrong rows of n: 1 - (1 - w/n)^k; here 5 of 25 by 2 rows, over 12 chunks and 60 seeds."""
    store = precomputed(tmp_path / "s", digits, digits_mentors[:1], "float32")
    stored = store.mentor("r14")
    wrong = {}
    for key in stored.commits:
        payload = bytearray(read_payload_of(store, stored, key).payload)
        rows = np.frombuffer(payload, dtype=np.float32).reshape(-1, 10)
        rows[:5] -= 1
        wrong[key] = memoryview(payload)
    found = []
    for seed in range(60):
        checks = checks_of(store, digits, digits_mentors[:1], seed)
        assert checks.run()
        found += [checks.refuse(stored, key, wrong[key]) is not None for key in wrong]
    expected = 1 - (1 - 5 / 25) ** 2
    spread = (expected * (1 - expected) / len(found)) ** 0.5
    assert abs(np.mean(found) - expected) < 4 * spread


def test_one_value_that_is_not_finite_is_found_wherever_it_is(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = precomputed(tmp_path / "s", digits, digits_mentors[:1], "float16")
    stored = store.mentor("r14")
    checks = checks_of(store, digits, digits_mentors[:1])
    assert checks.run()
    for row in range(25):
        payload = bytearray(read_payload_of(store, stored, (1, 2)).payload)
        np.frombuffer(payload, dtype=np.float16).reshape(-1, 10)[row, 3] = np.nan
        why = checks.refuse(stored, (1, 2), memoryview(payload))
        assert why == f"sample {digits.index_N[50 + row]}: the store has NaN or infinity"


@pytest.mark.parametrize("states", [0, 12, 25])
def test_a_record_that_states_another_accuracy_is_found(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], states: int
) -> None:
    """As far as the encoder's bound lets it be known: of float32, by one row."""
    checks = checks_of(store, digits, digits_mentors)
    assert checks.run()
    for one in store.sound_mentors:
        record = one.commits[0, 0]
        payload = read_payload_of(store, one, (0, 0)).payload
        wrong = replace(one, commits={(0, 0): replace(record, correct=states)})
        why = checks.refuse(wrong, (0, 0), payload)
        if one.encoder.exact:
            assert (why is None) == (states == record.correct)
        if why is not None:
            assert f"states {states} right rows" in why
            assert states != record.correct


def test_a_payload_that_is_no_chunk_is_refused(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    checks = checks_of(store, digits, digits_mentors)
    assert checks.run()
    for one in store.sound_mentors:
        for payload in (b"", b"\x00" * 40, bytes(10**6)):
            assert checks.refuse(one, (0, 0), memoryview(payload)) is not None


def test_rows_are_those_of_their_block_and_others_with_another_seed(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = precomputed(tmp_path / "s", digits, digits_mentors, "float32")
    keys = [(view, block) for view in range(VIEWS) for block in range(4)]
    drawn = {}
    for seed in range(4):
        checks = checks_of(store, digits, digits_mentors, seed)
        for view, block in keys:
            positions = checks.positions((view, block))
            assert (positions // 25 == block).all()
            drawn[seed, view, block] = tuple(positions)
    assert len(set(drawn.values())) > 0.8 * len(drawn)
    unknown = [checks_of(store, digits, digits_mentors, seed=s) for s in (5, 5)]
    assert [tuple(c.positions((0, 0))) for c in unknown] == [
        tuple(unknown[0].positions((0, 0)))
    ] * 2
    pool = MentorPool(digits_mentors, device=torch.device("cpu"), run_shape=SHAPE)
    secret = {
        tuple(
            int(p)
            for key in keys
            for p in RowChecks(pool, digits, store.recipe, store.manifest, {}).positions(key)
        )
        for _ in range(3)
    }
    assert len(secret) == 3


def test_rows_are_run_in_full_passes(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """12 chunks of two mentors, of which one lacks the last: 22 rows of both and 2 of one."""
    store = precomputed(tmp_path / "s", digits, digits_mentors, "float32")
    passes: list[tuple[int, tuple[str, ...]]] = []
    run: Callable[..., list[torch.Tensor]] = MentorPool.targets

    def counted(pool: MentorPool, pixels: np.ndarray, wanted: list[tuple[str, object]]) -> object:
        passes.append((len(pixels), tuple(name for name, _ in wanted)))
        return run(pool, pixels, wanted)

    monkeypatch.setattr(MentorPool, "targets", counted)
    pool = MentorPool(digits_mentors, device=torch.device("cpu"), run_shape=SHAPE)
    keys = [(view, block) for view in range(VIEWS) for block in range(4)]
    chunks = {("r14", LOGITS.name): keys, ("r8", LOGITS.name): keys[:-1]}
    told: list[tuple[int, int]] = []
    checks = RowChecks(pool, digits, store.recipe, store.manifest, chunks, seed=1, rows=6)
    assert checks.num_rows == 72
    assert checks.run(progress=lambda done, total: told.append((done, total)))
    assert passes == [(64, ("r14", "r8")), (2, ("r14", "r8")), (6, ("r14",))]
    assert told == [(64, 72), (66, 72), (72, 72)]
    for stored in store.sound_mentors:
        for key in chunks[stored.manifest.name, LOGITS.name]:
            assert checks.refuse(stored, key, read_payload_of(store, stored, key).payload) is None
    assert not checks.run(should_stop=lambda: True)


def test_a_row_of_maps_is_compared_and_its_wrong_pixel_named(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = precomputed(tmp_path / "s", digits, digits_mentors, "float32")
    encoder = find_encoder("heatmap8")
    stored = replace(store.mentor("r8"), kind=HEATMAPS, encoder=encoder)
    record = next(iter(stored.commits.values()))
    again = np.random.default_rng(0).uniform(0, 0.02, (3, 8, 6)).astype(np.float32)
    again[:, 4, 2] = 1.0
    decoded = encoder.round_trip(encoder.encode(again[None]), np.zeros(1, dtype=np.int64))[0]
    assert not np.array_equal(decoded, again)
    assert unlike(stored, record, 7, decoded, again) is None
    decoded[2, 5, 1] += 0.05
    reason = unlike(stored, record, 7, decoded, again)
    assert reason is not None
    assert reason.startswith("sample 7, joint 2, y 5, x 1: the store has 0.0")
