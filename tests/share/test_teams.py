"""Two homes and a hub of each kind: what the first precomputes and pushes, the second trains on.

The student of the second home, which has no mentor's checkpoint, is the first's to the last bit.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcache.checkpoints import save_weights
from kdcache.models import build_network
from kdcache.store import open_store
from tests.servers import Server, start_server
from tests.share.team import Home, client_of, same_run
from tests.store.small import block_of

MENTORS = ("r8", "r14")
DATA = ("--dataset", "digits", "--samples", 200)
STUDENT = ("train-student", "--student", "r8", *DATA, "--epochs", 2, "--batch-size", 32)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the store S: three views of two mentors in seven blocks, and two students."""
    folder = tmp_path_factory.mktemp("first")
    home = Home(folder / "home")
    checkpoints = []
    for name in MENTORS:
        path = folder / f"{name}.safetensors"
        save_weights(path, build_network(name, 10, seed=0), {})
        checkpoints += ["--checkpoint", f"{name}={path}"]
    store = folder / "S"
    with pytest.MonkeyPatch.context() as patched:
        block_of(patched, 32)
        home.run("precompute", "--mentors", ",".join(MENTORS), *DATA, "--views", 3,
                 "--store", store, *checkpoints)  # fmt: skip
    home.run(*STUDENT, "--store", store, "--out", folder / "all")
    # The first home's student of a part: views 0 and 1 of r8 alone, precomputed by themselves.
    with pytest.MonkeyPatch.context() as patched:
        block_of(patched, 32)
        home.run("precompute", "--mentors", "r8", *DATA, "--views", 2,
                 "--store", folder / "part", *checkpoints[:2])  # fmt: skip
    home.run(*STUDENT, "--store", folder / "part", "--out", folder / "alone")
    return home


@pytest.fixture(params=["folder", "sftp", "s3"])
def hub_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with start_server(request.param, tmp_path / "server") as server:
        yield server


def only_documents(home: Path) -> bool:
    """Whether nothing below a home is a mentor's weights."""
    return not [path for path in home.rglob("*.safetensors") if "student" not in path.name]


def use(first: Home, second: Home, hub: str, tmp_path: Path) -> None:
    """List, pull a part, verify, train from it, train from the hub itself."""
    folder = first.path.parent
    fingerprint = open_store(folder / "S").fingerprint
    listed = json.loads(second.run("list", hub, "--json"))
    (store,) = listed["stores"]
    assert store["fingerprint"] == fingerprint
    assert store["address"] == f"{hub}/stores/{fingerprint[:16]}"
    assert {one["mentor"] for one in store["targets"]} == set(MENTORS)
    assert store["address"] in second.run("list", hub)

    pulled = tmp_path / "pulled"
    told = second.run(
        "pull", store["address"], "--store", pulled, "--mentors", "r8", "--views", "0:2"
    )
    assert f"kdcache train-student --store {pulled}" in " ".join(told.split())
    assert "is sound" in second.run("verify", pulled)
    second.run("verify", store["address"])
    found = open_store(pulled)
    assert list(found.mentors) == ["r8"]
    assert sorted(found.mentor("r8").commits) == [(v, b) for v in range(2) for b in range(7)]

    second.run(*STUDENT, "--store", pulled, "--out", tmp_path / "alone")
    assert same_run(tmp_path / "alone", folder / "alone")
    second.run(*STUDENT, "--store", store["address"], "--out", tmp_path / "all")
    assert same_run(tmp_path / "all", folder / "all")
    assert not same_run(tmp_path / "all", tmp_path / "alone")
    assert only_documents(second.path)


def test_the_second_home_trains_the_first_ones_student(
    first: Home, hub_server: Server, tmp_path: Path
) -> None:
    pusher = Home(first.path, dict(hub_server.environment))
    told = pusher.run("push", first.path.parent / "S", hub_server.url)
    assert "is at the hub" in told
    assert "to move: 0 chunks" in pusher.run("push", first.path.parent / "S", hub_server.url)
    use(first, client_of(hub_server, tmp_path / "home"), hub_server.url, tmp_path)


def test_a_hub_that_is_pushed_into_a_folder_is_read_through_nginx(
    first: Home, tmp_path: Path
) -> None:
    with start_server("http", tmp_path / "server", lists=False) as server:
        first.run("push", first.path.parent / "S", server.folder)
        use(first, client_of(server, tmp_path / "home"), server.url, tmp_path)
