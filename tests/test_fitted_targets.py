"""Targets by fitted encoders: what the mentors said, from everywhere that gives targets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.encode import FITTED
from kdcache.encode.logits import mean_divergences
from kdcache.errors import StoreMismatch
from kdcache.mentors import Mentor, load_mentor
from kdcache.store import TargetStore
from kdcache.verification import verify
from tests.plain_reader import PlainStore

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def exact(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    """What the mentors say, in float32: two views."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "exact", views=2, encoder="float32"
    )


@pytest.mark.parametrize("encoder", FITTED)
def test_targets_are_what_mentors_said_within_bound_and_fidelity(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    exact: TargetStore,
    encoder: str,
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder=encoder
    )
    for name in store.mentors:
        chosen = store.mentor(name).encoder
        assert chosen.name == encoder
        for view in (0, 1):
            said = exact.targets(view, exact.index_N, [name])[:, 0]
            kept = store.targets(view, store.index_N, [name])[:, 0]
            assert (np.abs(kept.astype(np.float64) - said) <= chosen.bound(said)).all()
            assert max(mean_divergences(said, kept).values()) <= FITTED[encoder].fidelity * 1.2
    assert len({store.mentor(name).encoder for name in store.mentors}) == 2  # each its own table


@pytest.mark.parametrize("encoder", FITTED)
def test_a_reader_made_from_the_page_and_zarr_read_the_same(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    ours = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder=encoder
    )
    plain = PlainStore(tmp_path / "s")
    for name, mentor in plain.mentors.items():
        assert mentor.complete_views == [0, 1]
        array = zarr.open_array(tmp_path / "s" / "mentors" / name / "logits", mode="r")
        width = 10 + {"residual": 1, "coarse": 9}[encoder]
        assert array.shape == (2, 100, width)
        assert array.dtype == np.dtype("uint8")
        assert array.fill_value == 128
        for view in mentor.complete_views:
            decoded = ours.targets(view, ours.index_N, [name])[:, 0]
            assert mentor.targets(view).tobytes() == decoded.tobytes()
            stored = np.asarray(array[view])
            labels_N = digits.labels(digits.index_N)
            by_hand = ours.mentor(name).encoder.round_trip(stored, labels_N)
            assert by_hand.tobytes() == decoded.tobytes()


def test_streams_windows_and_the_store_give_the_same_in_any_order(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    """Mentors of four encoders, two of one family, side by side in the order asked for."""
    more = [load_mentor(name, digits, digits_checkpoint(name)) for name in ("r20", "wrn16", "r32")]
    mentors = [*digits_mentors, *more]
    encoders = ["residual", "float16", "coarse", "residual", "sqrt8-zstd"]
    for mentor, encoder in zip(mentors, encoders, strict=True):
        made = kdcache.precompute_targets(
            digits, [mentor], store=tmp_path / "s", views=2, encoder=encoder, batch_size=64
        )
    names = [mentor.name for mentor in mentors]
    random = np.random.default_rng(0)
    for chosen in (names, names[::-1], ["wrn16", "r8", "r14"], ["r20"], ["r20", "wrn16"]):
        stream = kdcache.TargetStream(made.root, mentors=chosen, device="cpu")
        for view in (1, 0):
            with stream.view(view) as targets:
                for size in (1, 7, 100):
                    index_B = random.permutation(digits.index_N)[:size]
                    expected = made.targets(view, index_B, chosen)
                    assert np.array_equal(targets[index_B].numpy(), expected)
    loaders = [
        kdcache.ReplayLoader(
            digits,
            kdcache.TargetStream(made.root, mentors=names, device="cpu", window=window),
            batch_size=8,
            seed=3,
            window=50,
            device="cpu",
        )
        for window in (50, None)
    ]
    whole: dict[int, torch.Tensor] = {}
    for batch in loaders[1]:
        assert batch.logits is not None
        whole.update(zip(batch.index.tolist(), batch.logits, strict=True))
    for batch in loaders[0]:
        assert batch.logits is not None
        expected = made.targets(0, np.asarray(batch.index), names)
        assert np.array_equal(batch.logits.numpy(), expected)
        for index, logits in zip(batch.index.tolist(), batch.logits, strict=True):
            assert torch.equal(logits, whole[index])


def test_features_and_logsumexps_lie_beside_fitted_logits(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=1, encoder="residual", features=True,
        keep_logsumexp=True,
    )  # fmt: skip
    kinds = {kind: store.mentor("r8", kind).encoder.name for kind in store.kinds("r8")}
    assert kinds == {"logits": "residual", "features": "float16", "logsumexp": "float32"}
    stream = kdcache.TargetStream(store, device="cpu", features=True, raw_logits=True)
    with stream.view(0) as targets:
        gathered = targets.gather_targets(digits.index_N)
    log_probs = store.targets(0, digits.index_N)
    lse = store.targets(0, digits.index_N, kind="logsumexp")
    assert gathered.logits is not None
    assert np.allclose(gathered.logits.numpy(), log_probs + lse[..., None], atol=1e-5)
    assert verify(store.root).ok


# What a store keeps, and what it is held to


def test_what_is_there_stays_as_it_is_encoded_where_no_encoder_is_asked_for(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    root = tmp_path / "s"
    for mentor, encoder in zip(digits_mentors, ("residual", "float16"), strict=True):
        kdcache.precompute_targets(digits, [mentor], store=root, views=1, encoder=encoder)
    store = kdcache.precompute_targets(digits, digits_mentors, store=root, views=2)
    assert {m: store.mentor(m).encoder.name for m in store.mentors} == {
        "r14": "residual",
        "r8": "float16",
    }
    assert store.usable_views(store.mentors) == [0, 1]


@pytest.mark.parametrize("encoder", FITTED)
def test_the_command_that_verify_prints_heals_a_damaged_array_document(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    root = tmp_path / "s"
    store = kdcache.precompute_targets(
        digits, digits_mentors[:1], store=root, views=1, encoder=encoder
    )
    said = store.targets(0, store.index_N)
    store.mentor("r14").array.metadata.write_text("x")
    healed = kdcache.precompute_targets(digits, digits_mentors[:1], store=root)  # names no encoder
    assert verify(root).ok
    assert np.array_equal(healed.targets(0, healed.index_N), said)


@pytest.mark.parametrize("encoder", ["auto", "residual"])
def test_a_fidelity_that_a_stored_mentor_misses_is_refused(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    def again(fidelity: float) -> TargetStore:
        return kdcache.precompute_targets(
            digits, digits_mentors, store=tmp_path / "s", views=1, encoder=encoder,
            fidelity=fidelity,
        )  # fmt: skip

    kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=1, encoder="residual", fidelity=1e-3
    )
    again(1.1e-3)
    with pytest.raises(StoreMismatch, match=r"stored by residual, at a mean KL of .* asks for"):
        again(1e-4)


@pytest.mark.parametrize("encoder", FITTED)
def test_an_export_in_the_encoder_that_it_has_loses_nothing(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=1, encoder=encoder
    )
    copy = kdcache.export_store(store.root, tmp_path / "copy", encoder=encoder)
    np.testing.assert_allclose(  # the shift of `coarse` is computed anew
        copy.targets(0, copy.index_N), store.targets(0, store.index_N), rtol=1e-6, atol=1e-6
    )
