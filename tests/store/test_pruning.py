"""Pruning: what is dropped is gone, the rest is as it was; killed anywhere, the store is sound."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kdcache
from benchmarks.torture.disks import Disk, chance_cut, write_state
from benchmarks.torture.faults import Operation, watched
from kdcache.datasets import ImageDataset
from kdcache.errors import MissingTargets, StoreError, UsageError
from kdcache.mentors import Mentor
from kdcache.store import (
    PruneJob,
    gather_commits,
    open_store,
    prune_store,
    verify_store,
    writing,
)
from tests.store.small import alter, block_of, make_store

SIZE: dict[str, Any] = {"num_samples": 32, "num_classes": 10, "views": 3, "mentors": ("r8", "r20")}


class Killed(BaseException):
    """In the midst of a prune."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three views of two mentors in four blocks, gathered."""
    block_of(monkeypatch, 8)
    root = make_store(tmp_path / "store", **SIZE).root
    gather(root)
    return root


@pytest.fixture
def with_features(
    tmp_path: Path,
    small_blocks: None,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
) -> Path:
    """Two views of two mentors, all kinds, fitted logits."""
    return kdcache.precompute_targets(
        digits,
        digits_mentors,
        store=tmp_path / "features",
        views=2,
        encoder="residual",
        features=True,
        keep_logsumexp=True,
    ).root


def gather(root: Path) -> None:
    for stored in open_store(root).sound_targets:
        gather_commits(stored.array, stored.identity)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".writers")
    }


def size(root: Path) -> int:
    return sum(map(len, content(root).values()))


def test_a_mentor_is_dropped_and_the_other_stays(root: Path) -> None:
    before = content(root)
    taken = size(root)
    job = PruneJob(root, mentors=["r8"])
    assert job.num_bytes == sum(len(c) for name, c in before.items() if "mentors/r8/" in name)
    assert job.run() == job.num_bytes == taken - size(root)
    assert content(root) == {n: c for n, c in before.items() if not n.startswith("mentors/r8/")}
    assert not (root / "mentors" / "r8").exists()
    assert (open_store(root).mentors, verify_store(root).ok) == (["r20"], True)
    with pytest.raises(MissingTargets, match="has no mentor 'r8'; it has r20"):
        PruneJob(root, mentors=["r8"])


def test_views_are_dropped_and_the_others_stay(root: Path) -> None:
    before = content(root)
    assert prune_store(root, views=[0, 2]) > 0
    store = open_store(root)
    assert store.usable_views(["r8", "r20"]) == [1]
    assert (store.num_views, verify_store(root).ok) == (3, True)
    kept = content(root)
    assert {n for n in before if n not in kept} == {
        n for n in before if "/c/0/" in n or "/c/2/" in n or n.split("/")[-1][:6] in OF_0_AND_2
    }
    assert all(before[n] == kept[n] for n in kept if not n.endswith("commits.json"))
    with pytest.raises(MissingTargets, match="nothing to drop"):
        PruneJob(root, views=[0, 2])


OF_0_AND_2 = ("000000", "000002")


def test_views_of_one_mentor(root: Path) -> None:
    prune_store(root, mentors=["r8"], views=1)
    store = open_store(root)
    assert (store.usable_views(["r8"]), store.usable_views(["r20"])) == ([1, 2], [0, 1, 2])


@pytest.mark.parametrize("options", [{"mentors": ["r8"]}, {"views": [1]}, {"views": [0, 1]}])
@pytest.mark.parametrize("indexed", [True, False])
def test_killed_anywhere_the_store_is_sound_and_the_same_prune_ends_it(
    tmp_path: Path, root: Path, options: dict[str, Any], indexed: bool
) -> None:
    if not indexed:
        for path in root.glob("mentors/*/*/commits.json"):
            path.unlink()
    kill_everywhere(tmp_path, root, options)


@pytest.mark.parametrize("options", [{"mentors": ["r8"]}, {"views": 1, "mentors": ["r8"]}])
def test_killed_anywhere_with_all_kinds(
    tmp_path: Path, with_features: Path, options: dict[str, Any]
) -> None:
    kill_everywhere(tmp_path, with_features, options, every=3)


def kill_everywhere(tmp_path: Path, start: Path, options: dict[str, Any], every: int = 1) -> None:
    work = tmp_path / "work" / "store"

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)

    def prune() -> None:
        prune_store(work, **options)

    fresh()
    moments = operations(prune, work)
    final = content(work)
    assert moments >= 20
    for moment in range(0, moments, every):
        fresh()
        with pytest.raises(Killed):
            operations(prune, work, kill_at=moment)
        found = verify_store(work)
        assert found.ok, (moment, found.damaged)
        if content(work) != final:
            prune_store(work, **options)
        assert content(work) == final, moment
        assert verify_store(work).ok
        assert not list(work.rglob(".*.tmp"))


@pytest.mark.parametrize("options", [{"mentors": ["r8"]}, {"views": [1]}])
def test_after_a_power_cut_too(tmp_path: Path, root: Path, options: dict[str, Any]) -> None:
    base = tmp_path / "base"
    shutil.copytree(root, base / "store")
    disk, states, chance = Disk(base), [], random.Random(0)

    def handler(operation: Operation, call: Callable[..., Any]) -> Any:
        done = call()
        disk.apply(operation)
        states.append(disk.after(chance_cut(chance)))
        return done

    with watched(base, handler):
        prune_store(base / "store", **options)
    final = content(base / "store")
    assert len(states) >= 20
    for state in states:
        shutil.rmtree(base)
        base.mkdir()
        write_state(state, base)
        assert verify_store(base / "store").ok
        if content(base / "store") != final:
            prune_store(base / "store", **options)
        assert content(base / "store") == final


def operations(run: Callable[[], object], root: Path, kill_at: int | None = None) -> int:
    """How many operations there were, unless it was killed before one of them."""
    count = 0

    def handler(operation: Operation, call: Callable[..., Any]) -> Any:
        nonlocal count
        if count == kill_at:
            raise Killed
        count += 1
        return call()

    root.parent.mkdir(parents=True, exist_ok=True)
    with watched(root.parent, handler):
        run()
    return count


def test_what_was_dropped_is_computed_again(
    with_features: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = content(with_features)
    prune_store(with_features, views=[1])
    options: dict[str, Any] = {"store": with_features, "views": 2}
    kdcache.precompute_targets(digits, digits_mentors, **options)
    assert content(with_features) == before


def test_never_while_another_writes(root: Path) -> None:
    before = content(root)
    job = PruneJob(root, mentors=["r8"])
    with writing(root), pytest.raises(StoreError, match="another command writes to"):
        job.run()
    assert content(root) == before


def test_damaged_mentors_and_leftovers_can_be_dropped(root: Path) -> None:
    alter(root / "mentors/r8/zarr.json", lambda d: d.update(node_type="x"), reseal=False)
    (root / "mentors/r8/logits/commits.json").write_text("{")
    prune_store(root, mentors=["r8"])
    assert verify_store(root).ok
    stored = open_store(root).mentor("r20")
    (stored.array.commits / stored.commits[0, 1].file_name).write_text("{")
    stored.array.chunk(2, 0).write_bytes(b"no")
    assert not verify_store(root).ok
    prune_store(root, views=[0, 2])
    assert verify_store(root).ok


def test_nothing_outside_is_touched(tmp_path: Path, root: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "0").mkdir(parents=True)
    (outside / "0" / "0").write_text("years of work")
    chunks = root / "mentors/r8/logits/c"
    shutil.rmtree(chunks / "1")
    os.symlink(outside, chunks / "1")
    with pytest.raises(StoreError, match="symbolic link"):
        prune_store(root, views=[1])
    os.remove(chunks / "1")
    os.symlink(outside / "0", chunks / "0" / "link")
    prune_store(root, mentors=["r8"])
    assert (outside / "0" / "0").read_text() == "years of work"
    group = root / "mentors" / "r20"
    shutil.move(group, tmp_path / "moved")
    os.symlink(tmp_path / "moved", group)
    with pytest.raises(StoreError, match="symbolic link"):
        PruneJob(root, mentors=["r20"])


def test_wrong_use(tmp_path: Path, root: Path) -> None:
    before = content(root)
    for error, match, options in (
        (UsageError, "say what to drop", {}),
        (UsageError, "got 0", {"views": 0}),
        (UsageError, "from 0", {"views": [-1]}),
        (MissingTargets, "nothing of these views of r8, r20|r20, r8", {"views": [7]}),
        (MissingTargets, "has no mentor 'r56'", {"mentors": ["r56"]}),
        (UsageError, "cannot name a mentor", {"mentors": ["../.."]}),
    ):
        with pytest.raises(error, match=match):
            prune_store(root, **options)
    with pytest.raises(StoreError, match="does not exist"):
        prune_store(tmp_path / "nowhere", views=1)
    with pytest.raises(StoreError, match="can be read, not written"):
        prune_store("http://127.0.0.1:1/store", views=1)
    assert content(root) == before
