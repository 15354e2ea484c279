"""Gathering where strangers have pushed: what they left never hides what others pushed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.errors import DamagedTargets, RunFailed, StoreError, UsageError
from kdcache.share import Hub, PushJob
from kdcache.share.gathering import MOST_FILES
from kdcache.store import open_store
from kdcache.store.gathered import GatheredStore, gather_array
from kdcache.store.merging import merge_gathered
from kdcache.store.sealed import read_sealed
from tests.hostile.forging import write
from tests.hostile.hub_forging import add_push, rename_push
from tests.store.small import SmallStore


@pytest.fixture
def hub(small: SmallStore, hub_folder: Path) -> Hub:
    """A hub to which somebody pushed r20."""
    PushJob(small.root, str(hub_folder), mentors=["r20"]).run()
    return Hub(str(hub_folder))


def push_mine(small: SmallStore, hub: Hub) -> None:
    """The victim's push: everything of his store is shown, and reads as it was."""
    PushJob(small.root, hub).run()
    mine, shown = open_store(small.root), open_store(hub.store_address(small.open().fingerprint))
    assert set(shown.mentors) >= {"r8", "r20"}
    np.testing.assert_array_equal(
        shown.targets(2, mine.index_N, ["r8", "r20"]), mine.targets(2, mine.index_N, ["r8", "r20"])
    )
    assert mine.fingerprint in hub.index().stores


def pushes(hub: Hub) -> set[str]:
    return {path.name for path in Path(hub.url, "pushes").iterdir()}


def renamed(name: str) -> Callable[[Any], object]:
    return lambda document: document["arrays"][0]["mentor"].update(name=name)


@pytest.mark.parametrize(
    "change",
    [
        renamed("../../../outside"),
        renamed("zarr.json"),
        renamed("<script>"),
        lambda document: document.update(manifest=[]),
        lambda document: document["arrays"][0].update(identity="f" * 64),
        lambda document: document["arrays"].append(document["arrays"][0]),
        lambda document: document["arrays"][0]["metadata"]["shape"].__setitem__(0, 2**39),
        lambda document: document["arrays"][0]["records"][0].update(bytes=2**61),
        lambda document: document["arrays"][0]["records"][0].update(rows=1),
        lambda document: document["manifest"].update(block=1),
    ],
)
def test_a_strangers_push_is_left_out_and_stays(
    change: Callable[[Any], object], small: SmallStore, hub: Hub
) -> None:
    add_push(Path(hub.url), change)
    before = pushes(hub)
    push_mine(small, hub)
    assert pushes(hub) > before
    (listed,) = hub.index().stores.values()
    assert {one.mentor for one in listed.targets} == {"r8", "r20"}


def test_other_blocks_hide_nothing_however_their_hash_begins(small: SmallStore) -> None:
    store = small.open()
    mine = GatheredStore(
        manifest=store.manifest,
        arrays={
            stored.identity: gather_array(stored, stored.commits) for stored in store.sound_mentors
        },
    )
    for number in range(8):  # half of them have a smaller hash
        theirs = replace(
            mine,
            manifest=replace(store.manifest, block=1, written_by={"kdcache": str(number)}),
            arrays={},
        )
        for order in ([mine, theirs], [theirs, mine]):
            merged = merge_gathered(order)
            assert merged.manifest.block == store.manifest.block
            assert merged.arrays.keys() == mine.arrays.keys()


def test_a_push_that_cannot_be_read_is_not_looked_at_for_long(small: SmallStore, hub: Hub) -> None:
    fingerprint = small.open().fingerprint
    large = Path(hub.url, "pushes", f"{fingerprint}.{'0' * 64}.json")
    large.touch()
    with large.open("r+b") as file:
        file.truncate(2**40)  # sparse: nobody reads it
    push_mine(small, hub)
    assert large.stat().st_size == 2**40


def test_more_pushes_than_are_gathered_are_refused_before_anything_moves(
    small: SmallStore, hub: Hub
) -> None:
    for number in range(MOST_FILES):
        Path(hub.url, "pushes", f"{number:064x}.{number:064x}.json").touch()
    chunks = sorted(Path(hub.url, "chunks").rglob("*"))
    with pytest.raises(RunFailed, match=r"has 10,001 files; a hub has at most 10,000.*remove what"):
        PushJob(small.root, hub).run()
    assert sorted(Path(hub.url, "chunks").rglob("*")) == chunks
    open_store(hub.url)  # who reads is not kept from it


def test_more_records_than_a_reader_takes_are_refused_by_name(
    small: SmallStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.store.merging.MOST_RECORDS", 20)
    before = Path(hub.url, "stores", small.open().fingerprint, "store.json").read_bytes()
    with pytest.raises(UsageError, match=r"not the team's, remove its documents in .*/pushes and"):
        PushJob(small.root, hub).run()
    assert Path(hub.url, "stores", small.open().fingerprint, "store.json").read_bytes() == before


def test_strange_pushes_of_other_views_are_their_pushers_matter(
    small: SmallStore, hub: Hub, tmp_path: Path
) -> None:
    """A link where another store's folder belongs, and pushes of stores that are none."""
    (tmp_path / "elsewhere").mkdir()
    (push,) = Path(hub.url, "pushes").iterdir()
    for number in range(3):
        fingerprint = f"{number:064x}"
        Path(hub.url, "stores", fingerprint).symlink_to(tmp_path / "elsewhere")
        Path(hub.url, "pushes", f"{fingerprint}.{'0' * 64}.json").write_bytes(push.read_bytes())
    document = read_sealed(push)
    document["manifest"]["view_seed"] = 77
    from tests.hostile.hub_forging import make_agree

    make_agree(document)
    stranger = push.with_name(f"{document['manifest']['fingerprint']}.{'0' * 64}.json")
    write(stranger, document)
    rename_push(stranger)
    Path(hub.url, "stores", document["manifest"]["fingerprint"]).symlink_to(tmp_path / "elsewhere")
    push_mine(small, hub)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("folder", ["pushes", "stores", "chunks", "lists"])
def test_a_folder_that_leads_elsewhere_is_refused(
    folder: str, small: SmallStore, hub: Hub, tmp_path: Path
) -> None:
    Path(hub.url, folder).rename(tmp_path / "elsewhere")
    Path(hub.url, folder).symlink_to(tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").rglob("*")}
    with pytest.raises(StoreError, match="lies behind a symbolic link"):
        PushJob(small.root, hub).run()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "elsewhere").rglob("*")} == before


@pytest.mark.parametrize("name", ["index.json", "hub.json", "store.json"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"{}", b"[" * 1000, b"\0" * 100])
def test_a_damaged_document_keeps_nobody_from_pushing(
    name: str, content: bytes, small: SmallStore, hub: Hub
) -> None:
    (path,) = Path(hub.url).rglob(name)
    path.write_bytes(content)
    push_mine(small, hub)
    assert path.read_bytes() != content


def test_a_lost_marker_is_made_anew_where_the_rest_is_a_hubs(small: SmallStore, hub: Hub) -> None:
    Path(hub.url, "hub.json").unlink()
    push_mine(small, hub)
    assert Path(hub.url, "hub.json").is_file()
    Path(hub.url, "hub.json").write_text("mine")
    Path(hub.url, "thesis.txt").write_text("mine too")
    with pytest.raises(StoreError, match=r"hub\.json is damaged"):
        hub.begin()
    Path(hub.url, "hub.json").unlink()
    with pytest.raises(StoreError, match="holds something else than a hub"):
        hub.begin()


def test_an_index_with_lies_is_made_anew(small: SmallStore, hub: Hub) -> None:
    path = Path(hub.url, "index.json")
    document = json.loads(path.read_bytes())
    for lie in (
        {"mentors": [{"file": ["unhashable"]}]},
        {"mentors": [{"name": "r8"}]},
        {"stores": document["stores"] * 2},
    ):
        write(path, {**document, **lie})
        with pytest.raises(DamagedTargets, match="is no hub's index"):
            hub.index()
    push_mine(small, hub)


def test_a_seal_in_disguise_is_no_document(small: SmallStore, hub: Hub) -> None:
    """The letters of a key may be escaped: sealed again, it would have two seals."""
    from tests.hostile.hub_forging import put_text

    path = next(Path(hub.url).glob("stores/*/store.json"))
    text = re.sub(
        '"data_type"', '"\\\\u0073eal": "' + "1" * 64 + '", "data_type"', path.read_text()
    )
    put_text(path, text)
    with pytest.raises(DamagedTargets, match="a seal in disguise"):
        open_store(hub.url)
    push_mine(small, hub)


def test_a_later_format_is_refused_and_stays(small: SmallStore, hub: Hub) -> None:
    path = Path(hub.url, "hub.json")
    write(path, {**json.loads(path.read_bytes()), "hub": 2})
    content = path.read_bytes()
    with pytest.raises(StoreError, match=r"hub format '2'.*knows format 1; use a later version"):
        PushJob(small.root, hub).run()
    assert path.read_bytes() == content
