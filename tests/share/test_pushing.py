"""Pushing stores to a hub in a folder, and reading them there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.copying import CopyJob
from kdcache.errors import DamagedTargets, MissingTargets, StoreError, StoreMismatch, UsageError
from kdcache.remote import Connection
from kdcache.remote.folder import Folder
from kdcache.remote.protocols import open_folder
from kdcache.share import Hub, PushJob, push_store
from kdcache.store import open_store, verify_store
from tests.store.small import SmallStore, block_of, files_of, make_store, resealed

CHUNKS = 2 * 3 * 4


def invoke(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    return result.output


def require_same_rows(place: Path | str, small: SmallStore) -> None:
    store, local = open_store(place), small.open()
    assert store.mentors == local.mentors
    assert store.manifest == local.manifest
    np.testing.assert_array_equal(store.labels_N, local.labels_N)
    for view in range(local.num_views):
        rows = local.targets(view, local.index_N)
        np.testing.assert_array_equal(store.targets(view, store.index_N), rows)


@pytest.mark.parametrize("encoder", ["float32", "float16", "sqrt8-zstd"])
def test_what_is_pushed_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_folder: Path, encoder: str
) -> None:
    block_of(monkeypatch, 8)
    small = make_store(tmp_path / "s", num_samples=30, views=2, mentors=["r8"], encoder=encoder)
    address = push_store(small.root, str(hub_folder))
    for place in (hub_folder, address, address[:-40], hub_folder.as_uri()):
        require_same_rows(place, small)
    assert verify_store(address).ok
    assert verify_store(address).chunks == 8
    assert kdcache.inspect_store(open_store(address)) == kdcache.inspect_store(small.open())


def test_pushing_again_moves_and_writes_nothing(small: SmallStore, hub_folder: Path) -> None:
    push_store(small.root, str(hub_folder))
    before = files_of(hub_folder)
    job = PushJob(small.root, str(hub_folder))
    assert (job.shown, job.chunks, job.num_bytes) == (CHUNKS, [], 0)
    assert job.run().num_chunks == 0
    assert files_of(hub_folder) == before


def test_parts_come_together(small: SmallStore, hub_folder: Path) -> None:
    push_store(small.root, str(hub_folder), mentors=["r20"], views=1)
    store = open_store(hub_folder)
    assert (store.mentors, store.num_views) == (["r20"], 1)
    push_store(small.root, str(hub_folder), views=[2])
    store = open_store(hub_folder)
    assert [m.complete_views(4) for m in store.sound_mentors] == [[0, 2], [2]]
    job = PushJob(small.root, str(hub_folder))
    assert (job.shown, len(job.planned)) == (3 * 4, CHUNKS - 3 * 4)
    job.run()
    require_same_rows(hub_folder, small)
    assert len(Hub(str(hub_folder)).index().stores) == 1


def test_a_store_at_a_hub_is_pulled_whole(
    small: SmallStore, hub_folder: Path, tmp_path: Path
) -> None:
    push_store(small.root, str(hub_folder))
    CopyJob(hub_folder, tmp_path / "pulled").run()
    assert verify_store(tmp_path / "pulled").ok
    for path in small.root.glob("mentors/*/*/c/*/*/*"):
        there = tmp_path / "pulled" / path.relative_to(small.root)
        assert there.read_bytes() == path.read_bytes()


def test_an_opened_store_asks_for_two_documents_at_most(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = push_store(small.root, str(hub_folder))
    asked: list[str] = []
    fetch = Connection.fetch

    def counted(self: Connection, name: str, arriving: Any) -> None:
        asked.append(name)
        fetch(self, name, arriving)

    monkeypatch.setattr(Connection, "fetch", counted)
    for place, most in ((address, 1), (address[:-40], 2)):
        asked.clear()
        open_store(place)
        assert len(asked) == most
    asked.clear()
    Hub(str(hub_folder)).index()
    assert asked == ["index.json"]


class Cut(Exception):
    """The network went away."""


@pytest.mark.parametrize("after", [0, 1, 5, 24, 25, 27, 28, 29, 30, 31])
def test_a_cut_push_shows_nothing_and_goes_on(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    put, count = Connection.put, 0

    def cut_off(self: Connection, name: str, content: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Cut
        put(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "put", cut_off)
        with pytest.raises(Cut):
            push_store(small.root, str(hub_folder))
    try:
        assert open_store(hub_folder).mentors == ["r20", "r8"]  # shown before the cut
        assert after >= 30
    except StoreError:
        assert after < 30
    there = len(list(hub_folder.glob("chunks/*/*")))
    job = PushJob(small.root, str(hub_folder))
    assert len(job.planned) in (CHUNKS - there, 0)
    job.run()
    require_same_rows(hub_folder, small)
    assert verify_store(hub_folder).ok


def test_mentors_of_one_name_stand_side_by_side(
    small: SmallStore, hub_folder: Path, tmp_path: Path
) -> None:
    push_store(small.root, str(hub_folder))
    other = make_store(
        tmp_path / "other",
        num_samples=32,
        num_classes=10,
        views=1,
        mentors=["r8"],
        encoder="float32",
    )
    job = PushJob(other.root, str(hub_folder))
    assert len(job.beside) == 1
    assert "r8: the hub also has it by float16" in job.beside[0]
    job.run()
    require_same_rows(hub_folder, small)  # the fullest is taken
    identity = other.open().mentor("r8").identity
    chosen = open_store(f"{job.address}+{identity[:12]}")
    assert chosen.mentor("r8").encoder.name == "float32"
    assert chosen.mentor("r20").encoder.name == "float16"
    np.testing.assert_array_equal(
        chosen.targets(0, chosen.index_N, ["r8"])[:, 0], other.decoded["r8"][0]
    )
    assert f"+{identity[:16]}" in invoke("list", hub_folder)
    with pytest.raises(UsageError, match="names 0 of the mentors' variants there"):
        open_store(f"{job.address}+{'0' * 12}")
    assert verify_store(chosen.address).ok


def test_other_bytes_of_the_same_targets_are_told_and_the_hubs_stay(
    small: SmallStore, hub_folder: Path, tmp_path: Path
) -> None:
    push_store(small.root, str(hub_folder))
    # The same mentors by their documents, but r8 says what r20 said.
    other = make_store(
        tmp_path / "other", num_samples=32, num_classes=10, views=3, mentors=["r20", "r8"]
    )
    before = files_of(hub_folder)
    assert "12 chunks of r8 are there with other bytes" in invoke("push", other.root, hub_folder)
    assert files_of(hub_folder) == before
    require_same_rows(hub_folder, small)
    assert verify_store(other.root).ok


def test_damaged_chunks_are_not_pushed_and_told(small: SmallStore, hub_folder: Path) -> None:
    chunk = small.array("r8").chunk(1, 2)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    output = invoke("push", small.root, hub_folder, exit_code=1)
    assert f"mentor r8, view 1, block 2: {chunk}: its CRC32C differs" in output
    assert "kdcache precompute" in output
    store = open_store(hub_folder)
    assert store.mentor("r8").complete_views(4) == [0, 2]
    assert verify_store(hub_folder).ok
    with pytest.raises(DamagedTargets, match=r"1 chunks of .* are damaged and were not pushed"):
        push_store(small.root, str(hub_folder))
    chunk.write_bytes(content)
    assert "1 chunks, " in invoke("push", small.root, hub_folder)
    require_same_rows(hub_folder, small)


def test_a_file_damaged_at_the_hub_is_put_there_again(small: SmallStore, hub_folder: Path) -> None:
    push_store(small.root, str(hub_folder))
    chunk = sorted(hub_folder.glob("chunks/*/000001.000002.*"))[0]
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    output = invoke("verify", hub_folder, exit_code=1)
    assert "its CRC32C differs from the committed one" in output
    (told,) = [line for line in output.splitlines() if "kdcache push STORE" in line]
    words = told.split("#")[0].replace("STORE", str(small.root)).split()[1:]
    assert "to move: 4 chunks" in invoke(*words)
    assert chunk.read_bytes() == content
    assert verify_store(hub_folder).ok


def test_a_hub_is_not_begun_among_other_things(small: SmallStore, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "draft.tex").write_text("")
    output = invoke("push", small.root, tmp_path / "papers", exit_code=2)
    assert "holds something else than a hub (draft.tex)" in output
    assert "Name a new or empty folder" in output
    with pytest.raises(StoreError, match="something else than a hub"):
        push_store(small.root, str(small.root))


def test_a_hub_of_a_newer_format_is_left_alone(small: SmallStore, hub_folder: Path) -> None:
    push_store(small.root, str(hub_folder), views=1)
    for name in ("hub.json", "index.json", f"stores/{small.open().fingerprint}/store.json"):
        path = hub_folder / name
        path.write_bytes(resealed(path.read_bytes().replace(b'"hub": 1', b'"hub": 2')))
    before = files_of(hub_folder)
    for command in ("push", small.root), ("list",), ("inspect",), ("verify",):
        output = invoke(*command, hub_folder, exit_code=2)
        assert "is of hub format '2', this version of kdcache knows format 1" in output
    assert files_of(hub_folder) == before


def test_stores_cut_into_other_blocks_are_refused(
    small: SmallStore, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_store(small.root, str(hub_folder))
    block_of(monkeypatch, 16)
    other = make_store(tmp_path / "other", num_samples=32, num_classes=10, mentors=["r14"])
    with pytest.raises(StoreMismatch, match=r"blocks of 8 samples.*blocks of 16"):
        PushJob(other.root, str(hub_folder))


def test_a_hub_of_many_stores_asks_which(hub_folder: Path, tmp_path: Path) -> None:
    stores = [make_store(tmp_path / str(n), num_samples=n, num_classes=2) for n in (3, 4)]
    for small in stores:
        push_store(small.root, str(hub_folder))
    output = invoke("inspect", hub_folder, exit_code=2)
    for small in stores:
        assert f"{hub_folder}/stores/{small.open().fingerprint[:16]}" in output
        assert f"{hub_folder}/stores/{small.open().fingerprint[:16]}" in invoke("list", hub_folder)
    document = json.loads(invoke("list", hub_folder, "--json"))
    assert {store["samples"] for store in document["stores"]} == {3, 4}
    for store in document["stores"]:
        require_same_rows(store["address"], stores[store["samples"] - 3])


def test_what_is_missing_is_told(small: SmallStore, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert "there is no hub at" in invoke("list", nowhere, exit_code=2)
    assert "name a hub: a URL or a shared folder" in invoke("push", small.root, exit_code=2)
    with pytest.raises(MissingTargets, match="has no mentor 'r99'"):
        PushJob(small.root, str(nowhere), mentors=["r99"])
    with pytest.raises(MissingTargets, match="has nothing of that to push yet"):
        PushJob(small.root, str(nowhere), views=[7])
    push_store(small.root, str(nowhere))
    absent = f"{nowhere}/stores/{'0' * 64}"
    assert f"has no store of the views {'0' * 64}" in invoke("inspect", absent, exit_code=2)
    assert "begins the fingerprints of 0 stores there" in invoke(
        "inspect", f"{nowhere}/stores/{'0' * 16}", exit_code=2
    )


def test_the_environment_names_the_hub(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HUB", str(hub_folder))
    assert "to move: 24 chunks" in invoke("push", small.root, "--dry-run")
    assert not hub_folder.exists()
    assert f"kdcache pull {hub_folder}/stores/" in invoke("push", small.root)
    assert "r20" in invoke("list")


def test_without_a_hub_the_stores_at_home_are_listed(tmp_path: Path, kdcache_home: Path) -> None:
    assert "no store under $KDCACHE_HOME" in invoke("list")
    make_store(kdcache_home / "stores" / "mine", num_samples=3, num_classes=2, mentors=["r8"])
    (kdcache_home / "stores" / "notes").mkdir()
    output = invoke("list")
    assert f"{kdcache_home / 'stores' / 'mine'}\n  small (train), 3 samples" in output
    (listed,) = json.loads(invoke("list", "--json"))["stores"]
    assert listed["address"] == str(kdcache_home / "stores" / "mine")
    assert [one["mentor"] for one in listed["targets"]] == ["r8"]


def test_one_connection_to_a_hub_does(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To push with its card, and to open by a short address: connecting is what takes time."""
    opened: list[str] = []

    def counted(place: str, address: str) -> Folder:
        opened.append(place)
        return open_folder(place, address)

    monkeypatch.setattr("kdcache.remote.connection.open_folder", counted)
    PushJob(small.root, str(hub_folder)).run()
    assert len(opened) == 1
    assert (hub_folder / "stores" / open_store(small.root).fingerprint / "README.md").is_file()
    opened.clear()
    fingerprint = open_store(small.root).fingerprint
    open_store(f"{hub_folder}/stores/{fingerprint[:16]}")
    assert len(opened) == 1
