"""Sealed documents: no byte of a store's metadata changes unnoticed."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import DamagedTargets
from kdcache.store import (
    ensure_store,
    open_store,
    read_manifest,
    write_commit_index,
)
from kdcache.store.commits import read_commits
from kdcache.store.sample_lists import read_list
from kdcache.store.sealed import BLANK, DamagedDocument, read_sealed, seal, write_sealed
from tests.store.small import SmallStore, block_of, index_damage, make_store, resealed


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of 5 samples in two blocks (3 and 2) of two mentors, two classes, indexed."""
    block_of(monkeypatch, 3)
    made = make_store(tmp_path / "store", num_samples=5, num_classes=2, mentors=["r8", "r20"])
    for name in ("r8", "r20"):
        stored = made.open().mentor(name)
        write_commit_index(stored.array, stored.commits.values())
    return made


def alterations(path: Path) -> Iterator[None]:
    """Each single bit of a file flipped, each length cut off, something added; then restored."""
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                yield
            os.pwrite(file.fileno(), whole[position : position + 1], position)
        for more in (b"\0", b" ", b"\n", whole):
            os.pwrite(file.fileno(), more, len(whole))
            yield
        for size in reversed(range(len(whole))):
            file.truncate(size)
            yield
    path.write_bytes(whole)


# The rule


def test_the_seal_is_the_hash_of_the_file_with_zeros_in_its_place(small: SmallStore) -> None:
    """In any language: find 64 hex digits after "seal", put zeros there, hash."""
    documents = [path for path in small.root.rglob("*.json") if path.is_file()]
    assert len(documents) == 2 + 2 + 2 * (2 + 4 + 1)
    for path in documents:
        content = path.read_bytes()
        found = list(re.finditer(rb'"seal": ?"([0-9a-f]{64})"', content))
        assert len(found) == 1
        start, end = found[0].span(1)
        zeroed = content[:start] + b"0" * 64 + content[end:]
        assert hashlib.sha256(zeroed).hexdigest().encode() == content[start:end]
        document = json.loads(content)
        holder = document if "seal" in document else document["attributes"]["kdcache"]
        assert holder["seal"] == content[start:end].decode()


def test_a_document_of_another_writer_is_read(tmp_path: Path) -> None:
    """Layout is not part of the rule: order, spaces and line ends are the writer's."""
    for content in (
        b'{"seal":"' + b"0" * 64 + b'","a":[1,2]}',
        b'{\r\n\t"a": [1,\n2],\r\n "seal": "' + b"0" * 64 + b'"}\r\n\r\n',
        b'{"a": [1, 2], "deep": {"seal": "' + b"0" * 64 + b'"}}',
    ):
        (tmp_path / "d.json").write_bytes(resealed(content))
        assert read_sealed(tmp_path / "d.json")["a"] == [1, 2]
        (tmp_path / "d.json").write_bytes(content)
        with pytest.raises(DamagedDocument, match="its content is not what was sealed"):
            read_sealed(tmp_path / "d.json")


def test_golden_seal() -> None:
    expected = hashlib.sha256(b'{\n  "a": 1,\n  "seal": "' + b"0" * 64 + b'"\n}').hexdigest()
    assert seal({"a": 1, "seal": BLANK}).decode() == f'{{\n  "a": 1,\n  "seal": "{expected}"\n}}'
    assert expected == "05fec9714a2bd434d32dcaf562af174f4b1fce0015f78c333cc9892f2ca041cc"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes without a seal"),
        (b"[]", "2 bytes without a seal"),
        (b'{"seal": "' + b"0" * 63 + b'"}', "without a seal"),
        (b'{"seal": "' + b"A" * 64 + b'"}', "without a seal"),
        (b'{"seal": "' + b"0" * 64 + b'", "x": {"seal": "' + b"0" * 64 + b'"}}', "without a seal"),
        (resealed(b'[{"seal": "' + b"0" * 64 + b'"}]'), "not a JSON object"),
        (resealed(b'{"seal": "' + b"0" * 64 + b'", "a": NaN}'), "NaN, which is not JSON"),
        (resealed(b'{"seal": "' + b"0" * 64 + b'"'), "it is not JSON"),
        (resealed(b'{"seal": "' + b"0" * 64 + b'", "a": "\xff"}'), "it is not UTF-8 text"),
        (resealed(b'{"seal": "' + b"0" * 64 + b'", "a": 1, "a": 2}'), "the key 'a' twice"),
    ],
)
def test_what_is_no_sealed_document(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(DamagedTargets, match=reason) as caught:
        read_sealed(tmp_path / "d.json")
    assert str(caught.value).startswith(f"{tmp_path / 'd.json'} is damaged: ")
    assert "kdcache precompute" in str(caught.value)


def test_what_cannot_be_sealed_is_not_written(tmp_path: Path) -> None:
    for document in ({"seal": BLANK, "x": float("nan")}, {}, {"seal": BLANK, "x": {"seal": BLANK}}):
        with pytest.raises(ValueError):
            write_sealed(tmp_path / "d.json", document)
    assert list(tmp_path.iterdir()) == []


def test_a_large_document_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "d.json", "wb") as file:
        file.truncate(2**40)  # takes no space on disk
    with pytest.raises(DamagedTargets, match="bytes or more, at most 4,194,304 are read"):
        read_sealed(tmp_path / "d.json")


# Every bit, and every length


def require_every_alteration_noticed(path: Path, read: Callable[[], object]) -> None:
    read()
    unnoticed = []
    for number, _ in enumerate(alterations(path)):
        try:
            read()
            unnoticed.append(number)
        except DamagedTargets:
            pass
    assert unnoticed == []
    read()


def test_every_alteration_of_the_manifest_is_an_error(small: SmallStore) -> None:
    require_every_alteration_noticed(small.root / "zarr.json", lambda: read_manifest(small.root))
    path = small.root / "zarr.json"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedTargets, match=re.escape(str(path))):
        open_store(small.root)


@pytest.mark.parametrize("name", ["index", "labels"])
@pytest.mark.parametrize("file", ["zarr.json", "c/0"])
def test_every_alteration_of_a_sample_list_is_an_error(
    small: SmallStore, name: str, file: str
) -> None:
    manifest = small.open().manifest
    path = small.root / name / file
    require_every_alteration_noticed(path, lambda: read_list(small.root, name, manifest))
    path.write_bytes(path.read_bytes()[:-1])
    store = small.open()
    with pytest.raises(DamagedTargets, match=re.escape(str(path))):
        getattr(store, f"{name}_N")


@pytest.mark.parametrize("file", ["zarr.json", "logits/zarr.json"])
def test_every_alteration_of_a_mentors_document_hits_that_mentor_alone(
    small: SmallStore, file: str
) -> None:
    path = small.root / "mentors" / "r20" / file
    require_every_alteration_noticed(path, lambda: read_sealed(path))
    for number, _ in enumerate(alterations(path)):
        if number % 11 == 0:  # each bit of some byte, all over the file
            store = small.open()
            assert store.mentors == ["r20", "r8"]
            (error,) = store.mentor_errors.values()
            assert isinstance(error, DamagedTargets)
    path.write_bytes(path.read_bytes()[:-1])
    store = small.open()
    assert list(store.mentor_errors) == ["r20"]
    with pytest.raises(DamagedTargets, match=re.escape(str(path))):
        store.targets(view=0, index=np.arange(5))
    with pytest.raises(DamagedTargets, match=re.escape(str(path))):
        store.mentor("r20")
    got = store.targets(view=1, index=np.arange(5), mentors=["r8"])[:, 0]
    assert np.array_equal(got, small.decoded["r8"][1])
    assert store.usable_views(["r8"]) == [0, 1]
    assert store.num_views == 2


def test_the_group_of_mentors_says_nothing_and_is_made_anew(small: SmallStore) -> None:
    """Only Zarr's readers need it, so a store opens without; precompute heals it."""
    path = small.root / "mentors" / "zarr.json"
    whole = path.read_bytes()
    manifest = small.open().manifest
    require_every_alteration_noticed(path, lambda: read_sealed(path))
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + b"x" + whole[position + 1 :])
        assert small.open().usable_views(["r8", "r20"]) == [0, 1]
        ensure_store(small.root, manifest, small.dataset)
        assert path.read_bytes() == whole


def test_every_alteration_of_a_commit_record_breaks_its_chunk_alone(small: SmallStore) -> None:
    stored = small.open().mentor("r20")
    path = stored.array.commits / stored.commits[1, 0].file_name
    others = {key: record for key, record in stored.commits.items() if key != (1, 0)}
    for _ in alterations(path):
        found = read_commits(stored.array, stored.identity, use_index=False)
        assert [(wrong.key, wrong.path) for wrong in found.broken] == [((1, 0), path)]
        assert found.records == others
    path.write_bytes(path.read_bytes()[:-1])
    stored.array.commit_index.unlink()
    store = small.open()
    with pytest.raises(DamagedTargets, match="view 1, block 0 are damaged: its content is not"):
        store.targets(view=1, index=np.arange(5))
    got = store.targets(view=0, index=np.arange(5), mentors=["r20"])[:, 0]
    assert np.array_equal(got, small.decoded["r20"][0])
    with pytest.raises(DamagedTargets, match="view 1, block 0"):
        store.usable_views(["r20"])
    assert store.usable_views(["r20"], wanted=[0]) == [0]
    assert store.usable_views(["r8"]) == [0, 1]


def test_every_alteration_of_the_index_is_told_and_costs_nothing(small: SmallStore) -> None:
    stored = small.open().mentor("r20")
    path = stored.array.commit_index
    require_every_alteration_noticed(path, lambda: read_sealed(path))
    assert index_damage(stored.array) is None
    for number, _ in enumerate(alterations(path)):
        if number % 11 == 0:
            assert index_damage(stored.array) is not None
            assert read_commits(stored.array, stored.identity).records == stored.commits
    path.unlink()
    assert index_damage(stored.array) is None  # it is no damage to have none
    assert small.open().mentor("r20").commits == stored.commits
