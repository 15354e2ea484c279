"""Many people push to one hub at once: everything is there, and everything verifies."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdcache.encode import LOGITS, find_encoder
from kdcache.share import push_store
from kdcache.store import (
    TargetStore,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
    verify_store,
)
from tests.servers import WRITABLE, Server, start_server
from tests.share.team import Home, client_of
from tests.store.small import (
    RECIPE,
    block_of,
    commit_rows,
    mentor_manifest,
    random_targets,
    small_dataset,
)

VIEWS, SAMPLES, CLASSES, BLOCKS = 2, 64, 10, 4


def make_part(root: Path, mentor: str, seed: int) -> TargetStore:
    """One mentor's store of the common views; `seed` decides what the mentor said."""
    dataset = small_dataset(SAMPLES, CLASSES)
    manifest = new_manifest(dataset, RECIPE)
    ensure_store(root, manifest, dataset)
    about = mentor_manifest(mentor, CLASSES, manifest.fingerprint)
    ensure_mentor(root, manifest, about, find_encoder("float16"), LOGITS, VIEWS)
    store = open_store(root)
    targets = random_targets(VIEWS, SAMPLES, CLASSES, seed=seed)
    for view in range(VIEWS):
        for block in range(store.manifest.num_blocks):
            rows = store.manifest.block_rows(block)
            commit_rows(store, mentor, (view, block), targets[view, rows])
    return open_store(root)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[TargetStore]:
    """Four mentors' stores, and two of a fifth: computed on two machines, with other bytes."""
    block_of(monkeypatch, SAMPLES // BLOCKS)
    named = [("r8", 0), ("r14", 1), ("r20", 2), ("r32", 3), ("r44", 4), ("r44", 5)]
    return [make_part(tmp_path / f"S{n}", name, n) for n, (name, _) in enumerate(named)]


@pytest.fixture
def hub_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with start_server(request.param, tmp_path / "server") as server:
        yield server


def require_all(parts: Sequence[TargetStore], reader: Home, hub: str) -> None:
    """The hub shows, lists and verifies what all of them have."""
    (listed,) = json.loads(reader.run("list", hub, "--json"))["stores"]
    chunks = {one["mentor"]: one["chunks"] for one in listed["targets"]}
    assert chunks == dict.fromkeys(("r8", "r14", "r20", "r32", "r44"), VIEWS * BLOCKS)
    assert all(one["complete_views"] == VIEWS for one in listed["targets"])
    assert "is sound" in reader.run("verify", listed["address"])


def require_rows(parts: Sequence[TargetStore], folder: Path) -> None:
    """Each chunk there is one pusher's; which one's, where two had it, is the same for a mentor's
    chunk to everybody who reads."""
    shown = open_store(folder)
    for view in range(VIEWS):
        for block in range(BLOCKS):
            rows = parts[0].index_N[parts[0].manifest.block_rows(block)]
            for mentor in shown.mentors:
                found = shown.targets(view, rows, [mentor])
                theirs = [p.targets(view, rows, [mentor]) for p in parts if mentor in p.mentors]
                assert any(np.array_equal(found, one) for one in theirs)


def _push(store: Path, hub: str, environment: dict[str, str], start: object) -> None:
    os.environ.update(environment)
    start.wait(60)  # type: ignore[attr-defined]
    push_store(store, hub)


@pytest.mark.parametrize("hub_server", WRITABLE, indirect=True)
@pytest.mark.parametrize("rounds", [1, pytest.param(6, id="many", marks=pytest.mark.slow)])
def test_four_mentors_and_one_twice_at_once(
    parts: list[TargetStore], hub_server: Server, tmp_path: Path, rounds: int
) -> None:
    reader = client_of(hub_server, tmp_path / "home")
    # One process imports everything, and each pusher is a fork of it.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kdcache.share", "s3fs", "asyncssh"])
    for number in range(rounds):
        hub = f"{hub_server.url}/hub{number}"
        start = processes.Barrier(len(parts))
        environment = {**hub_server.environment, "KDCACHE_HOME": str(tmp_path / "home")}
        pushers = [
            processes.Process(target=_push, args=(part.root, hub, environment, start))
            for part in parts
        ]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join(120)
        assert [pusher.exitcode for pusher in pushers] == [0] * len(parts)
        require_all(parts, reader, hub)
        require_rows(parts, hub_server.folder / f"hub{number}")
    assert all(verify_store(part.root).ok for part in parts)
