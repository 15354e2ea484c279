"""Zarr metadata: what our template writes is what Zarr itself would, and nothing else is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from kdcache.encode import ENCODERS, LOGITS, find_encoder
from kdcache.errors import DamagedTargets, StoreError
from kdcache.store.zarr_metadata import group_metadata, list_metadata, targets_metadata
from tests.store.small import SmallStore, alter, block_of, make_store

OPTIONAL = {"attributes", "storage_transformers", "consolidated_metadata"}


def written_by_zarr(store: MemoryStore) -> dict[str, Any]:
    content = sync(store.get("zarr.json", default_buffer_prototype()))
    assert content is not None
    document = json.loads(content.to_bytes())
    assert not document.get("storage_transformers")
    return {key: value for key, value in document.items() if key not in OPTIONAL}


def without_attributes(document: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(json.dumps(document))
    assert document.pop("attributes") == {"kdcache": {"a": 1}}
    return document


@pytest.mark.parametrize("name", ENCODERS)
def test_a_mentors_array_is_what_zarr_would_write(name: str) -> None:
    encoder = find_encoder(name)
    zstd = [ZstdCodec(level=3, checksum=False)] if encoder.compression else []
    store = MemoryStore()
    zarr.create_array(
        store=store,
        shape=(5, 20, 10),
        chunks=(1, 7, 10),
        dtype=encoder.dtype,
        fill_value=np.array(encoder.fill, dtype=encoder.dtype)[()],
        serializer=BytesCodec(),
        compressors=[*zstd, Crc32cCodec()],
        dimension_names=("view", "sample", "class"),
    )
    ours = targets_metadata(encoder, LOGITS, (5, 20, 10), 7, {"a": 1})
    assert without_attributes(ours) == written_by_zarr(store)


def test_a_list_is_what_zarr_would_write() -> None:
    store = MemoryStore()
    zarr.create_array(
        store=store,
        shape=(9,),
        chunks=(9,),
        dtype="int64",
        fill_value=0,
        compressors=[Crc32cCodec()],
        dimension_names=("sample",),
    )
    assert without_attributes(list_metadata(9, {"a": 1})) == written_by_zarr(store)


def test_a_group_is_what_zarr_would_write() -> None:
    store = MemoryStore()
    zarr.create_group(store=store)
    assert without_attributes(group_metadata({"a": 1})) == written_by_zarr(store)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_zarr_writes_of_the_same_rows_is_our_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Zarr's own writer, given our metadata, makes the very same chunk files."""
    block_of(monkeypatch, 4)
    small = make_store(tmp_path / "store", num_samples=8, encoder=name)
    array = small.array("r20")
    ours = {key: array.chunk(*key).read_bytes() for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    rows = np.asarray(zarr.open_array(array.folder, mode="r")[:])
    decoded = ENCODERS[name].decode(torch.from_numpy(rows)).numpy()
    assert np.array_equal(decoded, small.decoded["r20"])
    for key in ours:
        array.chunk(*key).unlink()
    zarr.open_array(array.folder, mode="r+")[:] = rows
    assert {key: array.chunk(*key).read_bytes() for key in ours} == ours


# Nothing else is read, whoever sealed it


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store", mentors=["r8", "r20"], encoder="sqrt8-zstd")


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another level": lambda d: d["codecs"][1]["configuration"].update(level=4),
    "another codec": lambda d: d["codecs"].insert(1, {"name": "gzip"}),
    "no checksum": lambda d: d["codecs"].pop(),
    "no codecs": lambda d: d.pop("codecs"),
    "another fill": lambda d: d.update(fill_value=0),
    "another type": lambda d: d.update(data_type="int8"),
    "another chunk": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2, 7, 3]),
    "another key": lambda d: d["chunk_key_encoding"]["configuration"].update(separator="."),
    "another shape": lambda d: d.update(shape=[2, 8, 3]),
    "other names": lambda d: d.update(dimension_names=["view", "sample", "joint"]),
    "a transformer": lambda d: d.update(storage_transformers=[{"name": "x"}]),
    "another format": lambda d: d.update(zarr_format=4),
    "a group": lambda d: d.update(node_type="group"),
    "more attributes": lambda d: d["attributes"].update(mine=1),
    "more of ours": lambda d: d["attributes"]["kdcache"].update(mine=1),
    "another kind": lambda d: d["attributes"]["kdcache"].update(kind="heatmaps"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_array_of_other_metadata_is_refused(small: SmallStore, change: str) -> None:
    path = small.array("r20").metadata
    whole = path.read_bytes()
    alter(path, CHANGES[change])
    store = small.open()
    with pytest.raises(StoreError, match="is not the array the manifest is for") as caught:
        store.mentor("r20")
    assert not isinstance(caught.value, DamagedTargets)
    assert str(path) in str(caught.value)
    assert store.usable_views(["r8"]) == [0, 1]
    path.write_bytes(whole)
    alter(path, CHANGES[change], reseal=False)
    with pytest.raises(DamagedTargets, match="its content is not what was sealed"):
        small.open().mentor("r20")


@pytest.mark.parametrize("shape", [None, [], ["x"], 5, [True, 7, 3], [0, 7, 3], [2**40, 7, 3]])
def test_an_array_without_a_number_of_views_is_refused(small: SmallStore, shape: object) -> None:
    path = small.array("r20").metadata
    alter(path, lambda document: document.update(shape=shape))
    with pytest.raises(StoreError, match=r"is not an array of targets|states .* views"):
        small.open().mentor("r20")


def test_an_array_of_ever_so_many_views_opens_at_once(small: SmallStore) -> None:
    alter(small.array("r20").metadata, lambda document: document.update(shape=[2**39, 7, 3]))
    store = small.open()
    assert store.num_views == 2**39
    assert store.usable_views(["r20"]) == [0, 1]


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        "float16",
        5,
        {"name": "sqrt9"},
        {"name": ["float16"]},
        {"name": "float16", "arithmetic": "target = 2 * stored"},
    ],
)
def test_an_encoder_this_version_cannot_decode_is_an_error(
    small: SmallStore, encoder: object
) -> None:
    path = small.array("r20").metadata
    alter(path, lambda document: document["attributes"]["kdcache"].update(encoder=encoder))
    known = r"cannot decode \(it knows coarse, float16, float32, residual, sqrt8, sqrt8-zstd\)"
    with pytest.raises(StoreError, match=rf"{known}|is not an array of targets"):
        small.open().mentor("r20")
    alter(path, lambda document: document["attributes"].update(kdcache=encoder), reseal=False)
    with pytest.raises(DamagedTargets, match="without a seal"):
        small.open().mentor("r20")


def test_an_array_of_another_encoder_makes_its_records_strangers(small: SmallStore) -> None:
    """Same type, same shape, same arithmetic: what was committed is still not of that encoder."""
    expected = targets_metadata(
        find_encoder("sqrt8"), LOGITS, (2, 7, 3), 7,
        {"kind": "logits", "encoder": find_encoder("sqrt8").describe()},
    )  # fmt: skip

    def change(document: dict[str, Any]) -> None:
        seal = document["attributes"]["kdcache"]["seal"]
        document.update(expected)
        document["attributes"]["kdcache"]["seal"] = seal

    alter(small.array("r20").metadata, change)
    store = small.open()
    assert store.mentor("r20").commits == {}
    with pytest.raises(DamagedTargets, match="of targets of another mentor, encoder or store"):
        store.targets(view=0, index=np.arange(2), mentors=["r20"])
