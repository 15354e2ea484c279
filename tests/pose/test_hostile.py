"""Stores of heatmaps from strangers: what their documents claim costs no memory, and is refused.

Every document is sealed and all fingerprints agree, as whoever writes a store can have it.
"""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kdcache
from kdcache.encode import HEATMAPS
from kdcache.errors import KdcacheError
from kdcache.inspection import inspect_store
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.verification import verify
from tests.hostile.forging import agree, attributes, edit, put

MOST_MEMORY = 32 * 2**20  # bytes; 24 people's heatmaps of two views are 3 MB
HEATMAPS_OF = "mentors/mbpose/heatmaps/zarr.json"
KEYPOINTS_OF = "mentors/mbpose/keypoints/zarr.json"


def manifest(*at: str | int, value: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        attributes(root / "zarr.json", lambda found: put(found, at, value))
        agree(root)

    return make


def array(name: str, *at: str | int, value: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        edit(root / name, lambda document: put(document, at, value))
        agree(root)

    return make


def whole_chunk(root: Path) -> None:
    """A chunk of zeros of a huge size once it is unpacked, or none."""
    for path in (root / "mentors/mbpose/heatmaps/c").rglob("0"):
        if path.is_file():
            path.write_bytes(b"\x28\xb5\x2f\xfd\xa4\xff\xff\xff\xff" + path.read_bytes()[9:])


CASES: dict[str, Callable[[Path], None]] = {
    "height 2^40": manifest("recipe", "height", value=2**40),
    "height 2^15": manifest("recipe", "height", value=2**15),
    "height 4096": manifest("recipe", "height", value=4096),
    "height 96": manifest("recipe", "height", value=96),
    "height -64": manifest("recipe", "height", value=-64),
    "height true": manifest("recipe", "height", value=True),
    "height 64.0": manifest("recipe", "height", value=64.0),
    "height a string": manifest("recipe", "height", value="64"),
    "no height": manifest("recipe", "height", value=None),
    "scale nan": manifest("recipe", "scale", value=float("nan")),
    "no joints": manifest("dataset", "num_classes", value=0),
    "1,000 joints": manifest("dataset", "num_classes", value=1000),
    "2^24 joints": manifest("dataset", "num_classes", value=2**24),
    "16 joints": manifest("dataset", "num_classes", value=16),
    "of classes": manifest("dataset", "task", value="classification"),
    "another task": manifest("dataset", "task", value=["pose"]),
    "crop-flip": manifest("recipe", value={
        "name": "crop-flip", "version": 1, "exact": True, "size": 64, "padding": 4, "flip": True,
    }),
    "exact": manifest("recipe", "exact", value=True),
    "2^40 samples": manifest("dataset", "num_samples", value=2**40),
    "block 2^30": manifest("block", value=2**30),
    "block 24": manifest("block", value=24),
    "proof without pixels": manifest("replay_proof", 3, "pixels", value=""),
    "proof of much": manifest("replay_proof", 3, "pixels", value="00" * 10**6),
    "proof of many": manifest("replay_proof", 3, "parameters", value=[1.0] * 10**5),
    "proof of 1e300": manifest("replay_proof", 3, "parameters", 0, value=1e300),
    "rows of 2^20": array(HEATMAPS_OF, "shape", value=[2, 24, 17, 2**20, 2**20]),
    "rows of 18 lines": array(HEATMAPS_OF, "shape", value=[2, 24, 17, 18, 16]),
    "rows without lines": array(HEATMAPS_OF, "shape", value=[2, 24, 17]),
    "2^39 views": array(HEATMAPS_OF, "shape", value=[2**39, 24, 17, 17, 16]),
    "5 coordinates": array(KEYPOINTS_OF, "shape", value=[2, 24, 17, 5]),
    "keypoints by heatmap8": array(
        KEYPOINTS_OF, "attributes", "kdcache", "encoder", "name", value="heatmap8"
    ),
    "heatmaps by sqrt8": array(
        HEATMAPS_OF, "attributes", "kdcache", "encoder", "name", value="sqrt8"
    ),
    "a finer bound": array(
        HEATMAPS_OF, "attributes", "kdcache", "encoder", "peak_error", value=1e-9
    ),
    "kind logits": array(HEATMAPS_OF, "attributes", "kdcache", "kind", value="logits"),
    "chunks of much": whole_chunk,
}  # fmt: skip
WELL_FORMED = {"2^39 views"}  # whoever makes a store may have planned so many


@pytest.fixture(scope="module", autouse=True)
def _all_is_loaded(small_store: TargetStore, sticks: Path) -> None:
    """Imports count as memory, too."""
    use(small_store.root, sticks)


def use(root: Path, sticks: Path) -> None:
    """Opens, inspects, verifies, reads and streams mbpose; KdcacheError for what is wrong."""
    store = open_store(root)
    inspect_store(store)
    found = verify_store(root)
    if not found.ok:
        raise KdcacheError(str(found.damaged[0]))
    verify(root, data_dir=sticks)
    store.targets(0, store.index_N, ["mbpose"])
    store.targets(0, store.index_N, ["mbpose"], kind="keypoints")
    people = kdcache.open_dataset("coco-keypoints", data_dir=sticks)
    stream = kdcache.TargetStream(store, ["mbpose"], device="cpu")
    for batch in kdcache.ReplayLoader(people, stream, 8, device="cpu"):
        assert batch.heatmaps is not None
        assert batch.heatmaps.shape == (8, 1, 17, 16, 16)


@pytest.mark.parametrize("case", CASES)
def test_a_store_that_lies_is_refused_before_memory_is_taken(
    case: str, copied: TargetStore, sticks: Path
) -> None:
    CASES[case](copied.root)
    refused: KdcacheError | None = None
    tracemalloc.start()
    try:
        use(copied.root, sticks)
    except KdcacheError as error:
        refused = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_MEMORY, case
    assert (refused is None) == (case in WELL_FORMED)
    assert refused is None or 10 < len(str(refused)) < 3000


def test_another_primary_kind_is_no_part_of_the_store(copied: TargetStore, sticks: Path) -> None:
    """Logits that lie in a mentor's folder beside its heatmaps are not taken for a mentor's."""
    folder = copied.root / "mentors/mbpose"
    (folder / "logits").mkdir()
    for name in ("zarr.json", "commits.json"):
        if (folder / "keypoints" / name).exists():
            (folder / "logits" / name).write_bytes((folder / "keypoints" / name).read_bytes())
    store = open_store(copied.root)
    assert store.kinds("mbpose") == (HEATMAPS.name, "keypoints")
    assert [stored.manifest.name for stored in store.sound_mentors] == ["lp18", "mbpose"]
    use(copied.root, sticks)


def test_photographs_of_other_people_are_refused(
    small_store: TargetStore, sticks: Path, tmp_path: Path
) -> None:
    """One image file with other pixels of the same size: the views are not the store's."""
    shutil.copytree(sticks, tmp_path / "others")
    photo = sorted((tmp_path / "others" / "train2017").glob("*.jpg"))[0]
    pixels = np.asarray(Image.open(photo))
    Image.fromarray(255 - pixels).save(photo, quality=90)
    people = kdcache.open_dataset("coco-keypoints", data_dir=tmp_path / "others")
    with pytest.raises(KdcacheError, match="pixels_sha256"):
        kdcache.ReplayLoader(people, small_store.root, 8, device="cpu")
