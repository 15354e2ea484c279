"""What is committed reads back: through the store, and through any Zarr reader."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.encode import ENCODERS
from kdcache.errors import MissingTargets, StoreError, UsageError
from kdcache.store import FORMAT, open_store
from kdcache.store.layout import block_size, member_name
from tests.store.small import block_of, make_store


@settings(deadline=None, max_examples=12)
@given(
    num_samples=st.integers(1, 20),
    num_classes=st.integers(1, 5),
    views=st.integers(1, 2),
    block=st.integers(1, 9),
    encoder=st.sampled_from(list(ENCODERS)),
    data=st.data(),
)
def test_what_was_committed_reads_back_whatever_the_blocks(
    num_samples: int, num_classes: int, views: int, block: int, encoder: str, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        block_of(monkeypatch, block)
        small = make_store(
            Path(folder) / "store",
            num_samples=num_samples,
            num_classes=num_classes,
            views=views,
            mentors=["r8", "r20"],
            encoder=encoder,
        )
        store = small.open()
        assert store.manifest.num_blocks == -(-num_samples // block)
        assert store.manifest.block <= block
        index = data.draw(st.lists(st.integers(0, num_samples - 1), max_size=30))
        names = data.draw(st.permutations(["r8", "r20"]))
        for view in range(views):
            got = store.targets(view=view, index=np.array(index, dtype=np.int64), mentors=names)
            assert got.dtype == np.float32
            assert got.shape == (len(index), 2, num_classes)
            for column, name in enumerate(names):
                assert np.array_equal(got[:, column], small.decoded[name][view][index])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_zarr_reader_finds_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    block_of(monkeypatch, 4)
    decode = ENCODERS[encoder].decode
    small = make_store(
        tmp_path / "store", num_samples=10, views=3, mentors=["r8", "r20"], encoder=encoder
    )
    store = small.open()
    for name in ("r8", "r20"):
        array = zarr.open_array(small.root / "mentors" / name / "logits", mode="r")
        assert array.shape == (3, 10, 3)
        assert array.dtype == np.dtype(ENCODERS[encoder].dtype)
        assert array.metadata.dimension_names == ("view", "sample", "class")  # type: ignore[union-attr]
        for view in range(3):
            ours = store.targets(view=view, index=store.index_N, mentors=[name])[:, 0]
            theirs = decode(torch.from_numpy(np.asarray(array[view])))
            assert np.array_equal(theirs.numpy(), ours)
            assert np.array_equal(ours, small.decoded[name][view])


def test_the_whole_store_is_one_zarr_group(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", num_samples=9, index_N=[8, 1, 5])
    group = zarr.open_group(small.root, mode="r")
    attributes = group.attrs["kdcache"]
    assert isinstance(attributes, dict)
    assert attributes["format"] == FORMAT == 1
    assert np.asarray(group["index"]).tolist() == [1, 5, 8]
    assert np.asarray(group["labels"]).tolist() == [1, 2, 2]
    assert np.asarray(group["mentors/r20/logits"]).shape == (2, 3, 3)
    assert zarr.open_group(small.root / "mentors" / "r20", mode="r").attrs["kdcache"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_not_committed_is_fill_for_a_zarr_reader_and_missing_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    block_of(monkeypatch, 4)
    small = make_store(tmp_path / "store", num_samples=8, skip=[("r20", 1, 1)], encoder=encoder)
    array = zarr.open_array(small.root / "mentors" / "r20" / "logits", mode="r")
    fill = np.full((4, 3), ENCODERS[encoder].fill, dtype=array.dtype)
    assert np.array_equal(np.asarray(array[1, 4:]), fill, equal_nan=fill.dtype.kind == "f")
    stored = torch.from_numpy(np.asarray(array[1, :4]))
    decoded = ENCODERS[encoder].decode(stored).numpy()
    assert np.array_equal(decoded, small.decoded["r20"][1, :4])
    store = small.open()
    assert np.isfinite(store.targets(view=1, index=np.arange(4))).all()
    with pytest.raises(MissingTargets, match=r"no targets of mentor 'r20' for view 1, block 1"):
        store.targets(view=1, index=np.array([0, 4]))
    assert store.mentor("r20").complete_views(store.manifest.num_blocks) == [0]
    assert store.usable_views(["r20"]) == [0]


def test_an_index_is_the_integer_of_the_original_dataset(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", num_samples=50, index_N=[40, 3, 17, 49])
    store = small.open()
    assert store.index_N.tolist() == [3, 17, 40, 49]
    assert store.labels_N.tolist() == [3 % 3, 17 % 3, 40 % 3, 49 % 3]
    got = store.targets(view=1, index=np.array([40, 40, 3]))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1][[2, 2, 0]])


def test_all_mentors_come_in_alphabetical_order_and_some_in_the_order_asked(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", mentors=["wrn16", "r8", "r20"])
    store = small.open()
    assert store.mentors == ["r20", "r8", "wrn16"]
    everyone = store.targets(view=0, index=np.arange(7))
    for column, name in enumerate(store.mentors):
        assert np.array_equal(everyone[:, column], small.decoded[name][0])
    some = store.targets(view=0, index=np.arange(7), mentors=["wrn16", "r20"])
    assert np.array_equal(some, everyone[:, [2, 0]])
    assert store.targets(view=0, index=np.arange(7), mentors=[]).shape == (7, 0, 3)


@pytest.mark.parametrize("index", [[-1], [4], [2], [3, 10**12]])
def test_an_unknown_sample_is_an_error_that_names_it(tmp_path: Path, index: list[int]) -> None:
    store = make_store(tmp_path / "store", num_samples=5, index_N=[1, 3]).open()
    with pytest.raises(MissingTargets, match=rf"of the samples asked for \(first: {index[-1]}\)"):
        store.targets(view=0, index=np.array(index))


def test_an_unknown_mentor_is_an_error_that_says_which_are_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", mentors=["r8", "r20"]).open()
    with pytest.raises(MissingTargets, match=r"no mentor 'r56'; it has r20, r8\. Add it with: "):
        store.targets(view=0, index=np.arange(2), mentors=["r8", "r56"])
    with pytest.raises(MissingTargets, match="--mentors r56 --dataset small --split train"):
        store.mentor("r56")


@pytest.mark.parametrize("view", [-1, 2, 10**6])
def test_an_unknown_view_is_an_error(tmp_path: Path, view: int) -> None:
    store = make_store(tmp_path / "store").open()
    with pytest.raises(MissingTargets, match=rf"of mentor 'r20' for view {view}, block 0"):
        store.targets(view=view, index=np.arange(2))


def test_views_are_usable_when_complete_for_all_mentors_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_of(monkeypatch, 4)
    small = make_store(
        tmp_path / "store",
        num_samples=8,
        views=4,
        mentors=["r8", "r20"],
        skip=[("r8", 0, 1), ("r20", 2, 0), ("r8", 3, 0), ("r8", 3, 1)],
    )
    store = small.open()
    assert store.num_views == 4
    assert store.usable_views(["r8"]) == [1, 2]
    assert store.usable_views(["r20"]) == [0, 1, 3]
    assert store.usable_views(["r8", "r20"]) == [1]


def test_no_usable_view_is_an_error(tmp_path: Path) -> None:
    small = make_store(
        tmp_path / "store", mentors=["r8", "r20"], skip=[("r8", 0, 0), ("r20", 1, 0)]
    )
    with pytest.raises(MissingTargets, match="no view complete for r8, r20; finish it"):
        small.open().usable_views(["r8", "r20"])


def test_an_open_store_is_a_snapshot(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", skip=[("r20", 1, 0)])
    before = small.open()
    make_store(small.root)  # whatever is there already stays; view 1 is added
    with pytest.raises(MissingTargets):
        before.targets(view=1, index=np.arange(2))
    assert small.open().usable_views(["r20"]) == [0, 1]


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(1, 1), (8192, 8192), (8193, 4097), (50_000, 7143), (10_000, 5000), (1438, 1438)],
)
def test_blocks_are_equal_and_hold_at_most_8192_samples(num_samples: int, expected: int) -> None:
    assert block_size(num_samples) == expected
    blocks = -(-num_samples // expected)
    assert blocks * expected - num_samples < blocks


@pytest.mark.parametrize(
    ("mentor", "folder"),
    [("r20", "r20"), ("wrn-16-2", "wrn-16-2"), ("torchvision:resnet50", "torchvision.resnet50")],
)
def test_a_mentors_folder_is_its_name(mentor: str, folder: str) -> None:
    assert member_name(mentor) == folder


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", ":x", "__x", "a/b", "a\\b", "a b", "é"])
def test_a_name_that_is_no_safe_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a mentor in a store"):
        member_name(name)


def test_a_path_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent does not exist\. Make a store with"):
        open_store(tmp_path / "absent")
    with pytest.raises(
        StoreError, match=r"is not \(part of\) a kdcache store: it has no zarr\.json"
    ):
        open_store(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match=r"is not \(part of\) a kdcache store"):
        open_store(tmp_path / "file")
    zarr.create_group(store=tmp_path / "group")
    with pytest.raises(StoreError, match=r"\d+ bytes without a seal: cut short, or not kdcache's"):
        open_store(tmp_path / "group")
