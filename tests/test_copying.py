"""Copying between stores: the same bytes; resumed, healed, refused; from folders and from URLs."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdcache
from kdcache.copying import CopyJob
from kdcache.errors import (
    DamagedTargets,
    MissingTargets,
    StoreError,
    StoreMismatch,
    Unreachable,
    UsageError,
)
from kdcache.store import (
    ChunkKey,
    DamagedChunk,
    RecordedPayload,
    StoredMentor,
    commit_copy,
    open_store,
    read_payload_of,
    verify_store,
)
from tests.remote.serving import Server, serving
from tests.store.small import SmallStore, alter, block_of, commit_rows, make_store, random_targets
from tests.test_precompute import stop_after
from tests.test_precompute_kinds import flip

SIZE: dict[str, Any] = {"num_samples": 32, "num_classes": 100}
MENTORS = ("r8", "r20")
VIEWS = 3
CHUNKS = 2 * VIEWS * 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks of 8 samples; no waiting for the disk or between attempts."""
    block_of(monkeypatch, 8)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)


@pytest.fixture
def source(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "served" / "store", views=VIEWS, mentors=MENTORS, **SIZE)


@pytest.fixture
def server(source: SmallStore) -> Iterator[Server]:
    with serving(source.root.parent) as started:
        yield started


def content(root: Path) -> dict[str, bytes]:
    """Every file of a store, without its locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".writers")
    }


@pytest.mark.parametrize("encoder", ["float16", "sqrt8-zstd"])
def test_a_copy_is_the_store(tmp_path: Path, encoder: str) -> None:
    source = make_store(
        tmp_path / "source", views=2, mentors=MENTORS, encoder=encoder, **SIZE
    ).open()
    root = tmp_path / "copy"
    job = CopyJob(source, root)
    assert (len(job.planned), job.reused, job.lacking) == (16, 0, {})
    seen: list[tuple[int, int]] = []
    result = job.run(progress=lambda done, total: seen.append((done, total)))
    assert (result.ok, result.num_chunks, result.num_bytes) == (True, 16, job.num_bytes)
    assert seen[-1] == (job.num_bytes, job.num_bytes)
    mine, theirs = content(root), content(source.root)
    indices = {name for name in mine if name.endswith("commits.json")}
    assert {n: mine[n] for n in mine if n not in indices} == theirs
    assert len(indices) == 2
    assert verify_store(root).ok
    again = CopyJob(source, root)
    assert (again.planned, again.reused, again.run().num_chunks) == ([], 16, 0)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(split=st.lists(st.sampled_from("abn"), min_size=CHUNKS, max_size=CHUNKS), data=st.data())
def test_parts_merged_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, split: list[str], data: st.DataObject
) -> None:
    """Whatever was computed where: "a" in one store, "b" in the other, "n" in both."""
    folder = tmp_path_factory.mktemp("parts")
    whole = make_store(folder / "whole", views=VIEWS, mentors=MENTORS, **SIZE)
    keys = [(name, view, block) for name in MENTORS for view in range(VIEWS) for block in range(4)]
    where = dict(zip(keys, split, strict=True))
    for part, other in (("a", "b"), ("b", "a")):
        make_store(
            folder / part,
            views=VIEWS,
            mentors=MENTORS,
            skip=[key for key in keys if where[key] == other],
            **SIZE,
        )
    first, second = data.draw(st.permutations(["a", "b"]))
    for part in (first, second):
        if any(where[key] in (part, "n") for key in keys):
            assert CopyJob(folder / part, folder / "merged").run().ok
    kept = {n: c for n, c in content(folder / "merged").items() if not n.endswith("commits.json")}
    assert kept == content(whole.root)
    shutil.rmtree(folder)


def test_mentors_and_views_are_chosen(tmp_path: Path, source: SmallStore) -> None:
    root = tmp_path / "part"
    part = kdcache.merge_stores(source.root, root, mentors=["r20"], views=[1])
    assert (part.mentors, part.num_views, part.usable_views(["r20"])) == (["r20"], 2, [1])
    part = kdcache.merge_stores(source.root, root, views=2)
    assert (part.mentors, part.num_views) == (["r20", "r8"], 2)
    assert len(CopyJob(source.root, root).planned) == 8
    index = source.dataset.index_N
    for view in range(2):
        assert np.array_equal(part.targets(view, index), source.open().targets(view, index))


def test_what_the_source_lacks_is_told(tmp_path: Path) -> None:
    skip = [("r8", 1, 2), *(("r20", view, block) for view in range(2) for block in range(4))]
    store = make_store(tmp_path / "some", views=2, mentors=MENTORS, skip=skip, **SIZE)
    job = CopyJob(store.root, tmp_path / "new")
    assert job.lacking == {"r8": [1]}
    result = job.run()
    assert (result.ok, result.store.mentors, result.num_chunks) == (True, ["r8"], 7)
    with pytest.raises(MissingTargets, match=r"nothing of mentor 'r20' yet.*kdcache precompute"):
        CopyJob(store.root, tmp_path / "other", mentors=["r20"])
    with pytest.raises(MissingTargets, match="none of these views of any mentor"):
        CopyJob(store.root, tmp_path / "other", views=[5, 6])
    assert CopyJob(store.root, tmp_path / "other", views=[0, 7]).lacking == {"r8": [7]}
    assert not (tmp_path / "other").exists()


def test_what_the_destination_lost_is_copied_again(tmp_path: Path, source: SmallStore) -> None:
    root = tmp_path / "copy"
    stored = kdcache.merge_stores(source.root, root).mentor("r8")
    before = content(root)
    flip(stored.array.chunk(1, 2))
    flip(stored.array.metadata)
    (stored.array.commits / stored.commits[0, 3].file_name).unlink()
    job = CopyJob(source.root, root)
    assert [move.record.key for move in job.planned] == [(0, 3), (1, 2)]
    assert job.run().healed == [stored.array.metadata]
    assert content(root) == before


def test_what_the_source_has_damaged_is_left_out_and_told(
    tmp_path: Path, source: SmallStore
) -> None:
    stored = source.open().mentor("r8")
    flip(stored.array.chunk(1, 3))
    stored.array.chunk(2, 0).unlink()
    (stored.array.commits / stored.commits[0, 1].file_name).write_text("{}")
    result = CopyJob(source.root, tmp_path / "new").run()
    assert sorted((d.view, d.block) for d in result.damaged) == [(0, 1), (1, 3), (2, 0)]
    assert (result.ok, result.stopped, result.num_chunks) == (False, False, CHUNKS - 3)
    assert result.healing is not None
    assert "kdcache precompute" in result.healing
    assert verify_store(tmp_path / "new").ok
    with pytest.raises(DamagedTargets, match=r"3 chunks of .* were not copied.*view 0, block 1"):
        kdcache.merge_stores(source.root, tmp_path / "new")
    alter(stored.array.metadata, lambda d: d.update(node_type="x"), reseal=False)
    result = CopyJob(source.root, tmp_path / "without").run()
    assert (result.store.mentors, [d.mentor for d in result.damaged]) == (["r20"], ["r8"])
    with pytest.raises(DamagedTargets):
        CopyJob(source.root, tmp_path / "without", mentors=["r8"])


def test_sound_chunks_with_other_bytes_stay(tmp_path: Path, source: SmallStore) -> None:
    other = make_store(
        tmp_path / "other", views=VIEWS, mentors=MENTORS, skip=[("r8", 1, 2)], **SIZE
    )
    rows = random_targets(1, 8, 100, seed=77)[0]
    commit_rows(other.open(), "r8", (1, 2), rows)
    before = content(other.root)
    job = CopyJob(source.root, other.root)
    result = job.run()
    assert (job.planned, result.different, result.ok) == ([], {"r8": 1}, True)
    after = content(other.root)
    assert {name: after[name] for name in before} == before
    assert verify_store(other.root).ok
    assert verify_store(source.root).ok


def test_wrong_use_changes_nothing(tmp_path: Path, source: SmallStore) -> None:
    def refused(error: type[Exception], match: str, root: Path, **options: Any) -> None:
        before = content(root) if root.exists() else None
        with pytest.raises(error, match=match):
            CopyJob(source.root, root, **options)
        assert (content(root) if root.exists() else None) == before

    new, link = tmp_path / "new", tmp_path / "link"
    link.symlink_to(source.root)
    refused(UsageError, "is the source itself", source.root)
    refused(UsageError, "is the source itself", link)
    refused(UsageError, "got 0", new, views=0)
    refused(MissingTargets, "has no mentor 'r56'", new, mentors=["r56"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    refused(StoreError, "not a kdcache store", tmp_path / "full")
    make_store(tmp_path / "fewer", num_samples=30, num_classes=100)
    refused(StoreMismatch, r"num_samples\s+32\s+30", tmp_path / "fewer")
    make_store(tmp_path / "sqrt8", encoder="sqrt8", **SIZE)
    refused(StoreMismatch, r"encoder\s+float16\s+sqrt8", tmp_path / "sqrt8")
    stored = make_store(tmp_path / "its", views=1, skip=ALL_OF_R20, **SIZE).open().mentor("r20")
    other_checkpoint(stored)
    refused(StoreMismatch, r"checkpoint_sha256\s+0+\s+1+", tmp_path / "its")
    CopyJob(source.root, tmp_path / "its", mentors=["r8"])
    with pytest.raises(StoreError, match="can be read, not written"):
        CopyJob(source.root, "http://127.0.0.1:1/store")
    with pytest.raises(StoreError, match="does not exist"):
        CopyJob(tmp_path / "nowhere", new)


ALL_OF_R20 = [("r20", 0, block) for block in range(4)]


def other_checkpoint(stored: StoredMentor) -> None:
    def change(document: dict[str, Any]) -> None:
        document["attributes"]["kdcache"]["checkpoint_sha256"] = "1" * 64

    alter(stored.array.group / "zarr.json", change)


def test_a_copy_that_was_stopped_goes_on(tmp_path: Path, source: SmallStore) -> None:
    root = tmp_path / "copy"
    first = CopyJob(source.root, root).run(should_stop=stop_after(2))
    assert first.stopped
    assert 0 < first.num_chunks < CHUNKS
    assert verify_store(root).ok
    rest = CopyJob(source.root, root)
    assert rest.reused == first.num_chunks
    assert rest.run().num_chunks == CHUNKS - first.num_chunks


def test_a_chunk_may_be_refused(tmp_path: Path, source: SmallStore) -> None:
    def check(stored: StoredMentor, key: ChunkKey, payload: memoryview) -> str | None:
        assert len(payload) == 1600
        return "not what its mentor says" if (stored.title, key) == ("r20", (2, 1)) else None

    result = CopyJob(source.root, tmp_path / "new", check=check).run()
    assert [str(one) for one in result.refused] == [
        f"mentor r20, view 2, block 1: {source.array('r20').chunk(2, 1)}: not what its mentor says"
    ]
    assert (result.num_chunks, result.ok) == (CHUNKS - 1, False)
    assert (2, 1) not in result.store.mentor("r20").commits


# At a URL


def test_a_store_at_a_url_is_copied_without_its_mirror(
    tmp_path: Path, server: Server, source: SmallStore
) -> None:
    url = f"{server.url}/store"
    opened = open_store(url)
    result = CopyJob(opened, tmp_path / "copy").run()
    assert (result.ok, result.num_chunks) == (True, CHUNKS)
    assert len(server.chunks) == CHUNKS
    assert not list(opened.root.glob("mentors/*/*/c/**/0"))
    kept = {n: c for n, c in content(tmp_path / "copy").items() if not n.endswith("commits.json")}
    assert kept == content(source.root)
    server.forget()
    assert CopyJob(url, tmp_path / "copy").run().num_chunks == 0
    assert server.chunks == []


def test_what_the_mirror_has_is_not_fetched_again(tmp_path: Path, server: Server) -> None:
    opened = open_store(f"{server.url}/store")
    opened.targets(0, opened.index_N, ["r8"])
    flip(opened.mentor("r8").array.chunk(0, 2))
    server.forget()
    assert CopyJob(opened, tmp_path / "copy").run().ok
    assert len(server.chunks) == CHUNKS - 3
    assert verify_store(tmp_path / "copy").ok


@pytest.mark.parametrize("fault", [503, "cut", "page", "endless"])
def test_a_fault_on_the_way_is_survived(tmp_path: Path, server: Server, fault: int | str) -> None:
    server.fail("/r8/logits/c/1/2", fault)
    assert CopyJob(f"{server.url}/store", tmp_path / "copy").run().ok


def test_a_dead_server_ends_it_and_it_goes_on_later(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_PATIENCE", "1")
    server.fail("/r20/logits/c/2", *[503] * 100)
    url, root = f"{server.url}/store", tmp_path / "copy"
    with pytest.raises(Unreachable, match="again to go on"):
        CopyJob(url, root).run()
    assert verify_store(root).ok
    server.faults.clear()
    server.forget()
    job = CopyJob(url, root)
    assert 0 < len(job.planned) < CHUNKS
    assert job.run().ok
    assert len(server.chunks) == len(job.planned)


def test_at_most_a_sixteenth_is_on_its_way(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_store(f"{server.url}/store")
    assert opened.remote is not None
    fetch, on_way, most = opened.remote.payload, [], []

    def counted(path: Path, record: Any) -> memoryview:
        on_way.append(path)
        most.append(len(on_way))
        try:
            return fetch(path, record)
        finally:
            on_way.remove(path)

    monkeypatch.setattr(opened.remote, "payload", counted)
    assert CopyJob(opened, tmp_path / "copy").run().ok
    assert max(most) <= max(1, CHUNKS // 16)


def test_a_source_at_a_url_that_lies_is_told(
    tmp_path: Path, server: Server, source: SmallStore
) -> None:
    stored = source.open().mentor("r8")
    path = stored.array.chunk(1, 1)
    path.write_bytes(bytes(len(path.read_bytes())))
    result = CopyJob(f"{server.url}/store", tmp_path / "copy").run()
    (damage,) = result.damaged
    assert str(damage).startswith(f"mentor r8, view 1, block 1: {server.url}/store/mentors/r8/")
    assert "CRC32C" in str(damage)
    assert "the folder behind" in str(result.healing)


# One chunk


def test_only_what_its_record_says_is_committed(tmp_path: Path, source: SmallStore) -> None:
    opened = source.open()
    r8, r20 = opened.mentor("r8"), opened.mentor("r20")
    chunk = read_payload_of(opened, r8, (0, 0))
    flipped = memoryview(bytearray(chunk.payload))
    flipped[5] ^= 1
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("1599 bytes instead of 1600", lambda: RecordedPayload(chunk.record, flipped[:-1])),
        ("CRC32C", lambda: RecordedPayload(chunk.record, flipped)),
        ("another mentor", lambda: commit_copy(opened, r20, chunk)),
    ]
    for match, refused in refusals:
        with pytest.raises(DamagedChunk, match=match):
            refused()
    forged = kdcache.store.CommitRecord(**{**vars(chunk.record), "sha256": "0" * 64})
    with pytest.raises(DamagedChunk, match="SHA-256"):
        RecordedPayload(forged, chunk.payload)
    rows = kdcache.store.CommitRecord(**{**vars(chunk.record), "rows": 7})
    with pytest.raises(DamagedChunk, match="7 rows"):
        commit_copy(opened, r8, RecordedPayload(rows, chunk.payload))
