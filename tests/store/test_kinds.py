"""Other kinds of targets beside a mentor's logits: arrays of their own, kept like logits."""

import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.encode import FEATURES, LOGSUMEXP, find_encoder, find_kind
from kdcache.errors import DamagedTargets, MissingTargets, RunFailed, StoreError, UsageError
from kdcache.inspection import inspect_store
from kdcache.store import (
    commit_targets,
    ensure_mentor,
    forget_unused,
    open_store,
    verify_store,
)
from tests.store.small import SmallStore, alter, block_of, make_store

WIDTHS = {"r8": 5, "r20": 2}


def add_kind(
    small: SmallStore, mentor: str, kind: str, *, views: int = 2, encoder: str = "float16"
) -> NDArray[np.float32]:
    """Commits random targets (V, N, *row) of one more kind of a mentor; gives them as decoded."""
    store, chosen = small.open(), find_kind(kind)
    width = WIDTHS[mentor] if chosen.from_features else None
    encoder = "float32" if kind == "logsumexp" else encoder
    by = find_encoder(encoder)
    ensure_mentor(
        small.root, store.manifest, store.mentor(mentor).manifest, by, chosen, views, width
    )
    store = small.open()
    row = chosen.row_shape(store.manifest.dataset, width)
    random = np.random.default_rng(len(mentor))
    targets = random.normal(size=(views, store.num_samples, *row)).astype(np.float32) * 9
    for view in range(views):
        for block in range(store.manifest.num_blocks):
            rows = store.manifest.block_rows(block)
            commit_targets(
                store.mentor(mentor, kind),
                (view, block),
                targets[view, rows],
                store.labels_N[rows],
                store.manifest.block,
            )
    return by.decode(torch.from_numpy(by.encode(targets))).numpy()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    block_of(monkeypatch, 4)
    return make_store(tmp_path / "store", mentors=["r20", "r8"])


@settings(deadline=None, max_examples=12)
@given(
    num_samples=st.integers(1, 20),
    block=st.integers(1, 9),
    views=st.integers(1, 2),
    encoder=st.sampled_from(FEATURES.encoders),
    data=st.data(),
)
def test_what_was_committed_reads_back_whatever_the_blocks(
    num_samples: int, block: int, views: int, encoder: str, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        block_of(monkeypatch, block)
        made = make_store(Path(folder) / "s", num_samples=num_samples, views=views, mentors=WIDTHS)
        features = {m: add_kind(made, m, "features", views=views, encoder=encoder) for m in WIDTHS}
        logsumexps = {m: add_kind(made, m, "logsumexp", views=views) for m in WIDTHS}
        store = made.open()
        index = np.array(data.draw(st.lists(st.integers(0, num_samples - 1), max_size=30)), int)
        names = data.draw(st.permutations(list(WIDTHS)))
        for view in range(views):
            got = store.targets(view, index, names, kind="features")
            assert [rows.shape for rows in got] == [(len(index), WIDTHS[name]) for name in names]
            lse_BM = store.targets(view, index, names, "logsumexp")
            assert lse_BM.shape == (len(index), 2)
            for column, name in enumerate(names):
                assert got[column].dtype == lse_BM.dtype == np.float32
                assert np.array_equal(got[column], features[name][view][index])
                assert np.array_equal(lse_BM[:, column], logsumexps[name][view][index])
                logits = store.targets(view, index, [name])[:, 0]
                assert np.array_equal(logits, made.decoded[name][view][index])


def test_any_zarr_reader_finds_the_same_values(small: SmallStore) -> None:
    features, logsumexp = (add_kind(small, "r8", kind) for kind in ("features", "logsumexp"))
    group = zarr.open_group(small.root / "mentors" / "r8", mode="r")
    for name, values, dimensions in (
        ("features", features, ("view", "sample", "feature")),
        ("logsumexp", logsumexp, ("view", "sample")),
    ):
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == dimensions  # type: ignore[union-attr]
        assert np.array_equal(np.asarray(array[:]).astype(np.float32), values)


def test_a_mentor_without_a_kind_is_told_with_the_command_that_adds_it(small: SmallStore) -> None:
    add_kind(small, "r8", "features")
    store = small.open()
    assert store.kinds("r8") == ("logits", "features")
    assert store.kinds("r20") == ("logits",)
    assert store.kinds("r56") == ()
    for ask in (
        lambda: store.mentor("r20", "features"),
        lambda: store.targets(0, np.arange(3), ["r8", "r20"], kind="features"),
        lambda: store.usable_views(["r8", "r20"], kinds=["logits", "features"]),
    ):
        with pytest.raises(MissingTargets, match="no features of r20 in any of its views, 0, 1"):
            ask()
    with pytest.raises(MissingTargets, match="no features of r20 and no logsumexp of r20, r8") as e:
        store.usable_views(["r20", "r8"], kinds=["logits", "features", "logsumexp"])
    words = shlex.split(str(e.value).split(": ", 1)[1])
    assert words[:6] == ["kdcache", "precompute", "--store", str(small.root), "--mentors", "r20,r8"]
    assert words[-2:] == ["--features", "--keep-logsumexp"]
    with pytest.raises(UsageError, match="unknown kind of targets 'feature'"):
        store.mentor("r8", "feature")
    with pytest.raises(MissingTargets, match=r"no mentor 'r56'.*--features$"):
        store.mentor("r56", "features")


def test_usable_views_are_complete_for_all_kinds(small: SmallStore) -> None:
    add_kind(small, "r8", "features", views=1)
    store = small.open()
    assert store.usable_views(["r8"]) == [0, 1]
    assert store.usable_views(["r8"], kinds=["logits", "features"]) == [0]
    stored = store.mentor("r8", "features")
    (stored.array.commits / stored.commits[0, 1].file_name).unlink()
    with pytest.raises(MissingTargets, match=r"no view complete for r8, r8 features.*--features"):
        small.open().usable_views(["r8"], kinds=["logits", "features"])
    with pytest.raises(MissingTargets, match=r"no features of mentor 'r8' for view 0, block 1"):
        small.open().targets(0, np.arange(7), ["r8"], kind="features")


@pytest.mark.parametrize("kind", ["features", "logsumexp"])
def test_every_byte_is_verified_and_damage_names_the_kind(small: SmallStore, kind: str) -> None:
    add_kind(small, "r8", kind)
    assert verify_store(small.root).ok
    assert verify_store(small.root).chunks == 2 * 2 * 3
    array = small.open().mentor("r8", kind).array
    chunk = array.chunk(1, 0)
    content = chunk.read_bytes()
    for position in range(len(content)):
        chunk.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        (damage,) = verify_store(small.root).damaged
        assert (damage.mentor, damage.kind, damage.view, damage.block) == ("r8", kind, 1, 0)
    assert str(damage).startswith(f"mentor r8, {kind}, view 1, block 0: ")
    with pytest.raises(DamagedTargets, match=rf"{kind} of mentor 'r8', view 1, block 0 .*--"):
        small.open().targets(1, np.arange(3), ["r8"], kind)  # type: ignore[call-overload]
    assert np.isfinite(small.open().targets(1, np.arange(3), ["r8"])).all()


def test_what_is_wrong_with_one_kind_leaves_the_others_readable(small: SmallStore) -> None:
    add_kind(small, "r8", "features")
    array = small.open().mentor("r8", "features").array
    sound = array.metadata.read_bytes()
    array.metadata.unlink()
    store = small.open()
    assert store.usable_views(["r8"]) == [0, 1]
    assert store.mentor_errors == {}
    with pytest.raises(DamagedTargets, match=r"features/zarr.json is damaged: the file is gone"):
        store.mentor("r8", "features")
    (damage,) = verify_store(small.root).damaged
    assert (damage.mentor, damage.kind, damage.path) == ("r8", "features", str(array.metadata))
    assert not inspect_store(store)["complete"]
    assert "mentor r8 features: " in inspect_store(store)["problems"][0]
    array.metadata.write_bytes(sound)
    assert verify_store(small.root).ok


@pytest.mark.parametrize("width", [0, -1, 4, 2**16 + 1, 2**62, True, 5.5, "5", None, [5]])
def test_arrays_of_an_absurd_width_are_refused(small: SmallStore, width: object) -> None:
    add_kind(small, "r8", "features")
    array = small.open().mentor("r8", "features").array

    def widen(document: dict) -> None:  # type: ignore[type-arg]
        document["shape"][2] = width
        if width != 4:
            document["chunk_grid"]["configuration"]["chunk_shape"][2] = width

    alter(array.metadata, widen)
    store = small.open()
    with pytest.raises(StoreError, match=r"features|expected"):
        store.mentor("r8", "features")
    assert store.usable_views(["r8"]) == [0, 1]


def test_a_width_that_the_chunks_do_not_have_makes_them_damaged(small: SmallStore) -> None:
    """No memory is taken for it: what is committed says how many bytes there are."""
    add_kind(small, "r8", "features")
    array = small.open().mentor("r8", "features").array

    def widen(document: dict) -> None:  # type: ignore[type-arg]
        document["shape"][2] = document["chunk_grid"]["configuration"]["chunk_shape"][2] = 2**16

    alter(array.metadata, widen)
    store = small.open()
    assert store.mentor("r8", "features").commits == {}
    with pytest.raises(DamagedTargets, match=r"40 bytes, a chunk has 524288"):
        store.usable_views(["r8"], kinds=["features"])


@pytest.mark.parametrize("encoder", ["sqrt8", "sqrt8-zstd"])
def test_features_in_an_encoding_of_log_probabilities_are_refused(
    small: SmallStore, encoder: str
) -> None:
    store = small.open()
    r8 = store.mentor("r8").manifest
    ensure_mentor(small.root, store.manifest, r8, find_encoder(encoder), FEATURES, 1, 5)
    with pytest.raises(StoreError, match=r"cannot decode \(it knows float16, float32\)"):
        small.open().mentor("r8", "features")


def test_kinds_that_nobody_knows_are_ignored(small: SmallStore) -> None:
    features = small.root / "mentors" / "r8" / "features"
    add_kind(small, "r8", "features")
    features.rename(features.with_name("attention"))
    assert small.open().kinds("r8") == ("logits",)
    assert verify_store(small.root).ok


def test_a_kind_never_begun_leaves_no_trace(small: SmallStore) -> None:
    store = small.open()
    r8 = store.mentor("r8").manifest
    ensure_mentor(small.root, store.manifest, r8, find_encoder("float32"), LOGSUMEXP, 2)
    array = small.open().mentor("r8", "logsumexp").array
    forget_unused(array, lambda: False)  # somebody else writes
    assert small.open().kinds("r8") == ("logits", "logsumexp")
    forget_unused(array, lambda: True)
    assert small.open().kinds("r8") == ("logits",)
    add_kind(small, "r8", "features")
    forget_unused(small.open().mentor("r8", "features").array, lambda: True)
    assert small.open().kinds("r8") == ("logits", "features")
    assert verify_store(small.root).ok


def test_logits_stay_while_anything_of_their_mentor_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them a mentor is none, so its features would be lost with them."""
    block_of(monkeypatch, 4)
    made = make_store(
        tmp_path / "s", mentors=["r8"], skip=[("r8", v, b) for v in (0, 1) for b in (0, 1)]
    )
    add_kind(made, "r8", "features")
    forget_unused(made.array("r8"), lambda: True)
    assert made.open().kinds("r8") == ("logits", "features")
    assert open_store(made.root).mentor_errors == {}


def test_inspect_lists_each_kind(small: SmallStore) -> None:
    before = inspect_store(small.open())
    add_kind(small, "r8", "features")
    add_kind(small, "r8", "logsumexp", views=1)
    found = inspect_store(small.open())
    r20, r8 = found["mentors"]
    assert r20 == before["mentors"][0]
    assert {k: v for k, v in r8.items() if k != "kinds"} == {
        k: v for k, v in before["mentors"][1].items() if k != "kinds"
    }
    assert list(r8["kinds"]) == ["logits", "features", "logsumexp"]
    widths = {kind: has["width"] for kind, has in r8["kinds"].items()}
    assert widths == {"logits": 3, "features": 5, "logsumexp": 1}
    assert r8["kinds"]["features"]["bytes"] == 2 * 8 * 5 * 2
    assert r8["kinds"]["logsumexp"]["bytes"] == 8 * 4
    assert r8["kinds"]["features"]["encoder"]["measured_error"]["max_relative"] <= 2**-11
    assert r8["kinds"]["logsumexp"]["encoder"]["measured_error"] == {}
    assert found["bytes"] == before["bytes"] + 2 * 8 * 5 * 2 + 8 * 4
    assert before["complete"]
    assert not found["complete"]  # a view of the logsumexps is missing


@pytest.mark.parametrize("kind", ["features", "logsumexp"])
def test_nan_is_refused_with_the_mentors_name(small: SmallStore, kind: str) -> None:
    add_kind(small, "r8", kind)
    stored = small.open().mentor("r8", kind)
    targets = np.zeros((4, *stored.row_shape), dtype=np.float32)
    targets[2] = np.inf
    with pytest.raises(
        RunFailed, match=rf"'r8' gave NaN or infinite {kind}s? for 1 samples of view 0"
    ):
        commit_targets(stored, (0, 0), targets, np.zeros(4, np.int64), 4)
