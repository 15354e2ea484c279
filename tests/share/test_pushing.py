"""Pushing stores to a hub in a folder, and reading them there."""

import json
import os
from functools import partial
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
from tests.store.small import SmallStore, alter, block_of, files_of, make_store, resealed

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
    block_of(monkeypatch, 8)
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


def other_bits(root: Path, monkeypatch: pytest.MonkeyPatch, views: int) -> SmallStore:
    """The mentors of `small` by their documents; r8 says what r20 says there."""
    block_of(monkeypatch, 8)
    return make_store(root, num_samples=32, num_classes=10, views=views, mentors=["r20", "r8"])


def test_more_views_are_pushed_beside_other_bytes(
    small: SmallStore, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_store(small.root, str(hub_folder), views=2)
    other = other_bits(tmp_path / "other", monkeypatch, views=3)
    job = PushJob(other.root, str(hub_folder))
    assert (sum(job.different.values()), len(job.chunks)) == (16, 8)
    assert job.run().ok
    assert verify_store(hub_folder).ok
    assert [m.complete_views(4) for m in open_store(hub_folder).sound_mentors] == [[0, 1, 2]] * 2
    assert PushJob(other.root, str(hub_folder)).chunks == []


def test_a_push_that_was_taken_back_is_shown_no_longer_and_can_be_replaced(
    small: SmallStore, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = other_bits(tmp_path / "wrong", monkeypatch, views=3)
    address = push_store(wrong.root, str(hub_folder))
    for push in (hub_folder / "pushes").iterdir():
        push.unlink()
    unrelated = make_store(tmp_path / "unrelated", num_samples=3, num_classes=2)
    push_store(unrelated.root, str(hub_folder))
    assert open_store(address).mentors == []
    push_store(small.root, str(hub_folder))
    require_same_rows(address, small)
    assert len(Hub(str(hub_folder)).index().stores) == 2


def test_the_only_push_taken_back_is_pushed_again(small: SmallStore, hub_folder: Path) -> None:
    address = push_store(small.root, str(hub_folder))
    (push,) = (hub_folder / "pushes").iterdir()
    push.unlink()
    job = PushJob(small.root, str(hub_folder))
    assert (len(job.chunks), job.num_bytes) == (CHUNKS, 0)
    job.run()
    require_same_rows(address, small)
    assert f"{address[:-48]}" in invoke("list", hub_folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_push_that_may_not_be_read_hides_nobody(small: SmallStore, hub_folder: Path) -> None:
    push_store(small.root, str(hub_folder), mentors=["r8"])
    (push,) = (hub_folder / "pushes").iterdir()
    push.chmod(0)
    with pytest.raises(StoreError, match="permission"):
        push_store(small.root, str(hub_folder), mentors=["r20"])
    push.chmod(0o644)
    push_store(small.root, str(hub_folder), mentors=["r20"])
    require_same_rows(hub_folder, small)


def test_a_push_that_cannot_be_read_now_hides_nobody(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_store(small.root, str(hub_folder), mentors=["r8"])
    fetch = Connection.fetch

    def refused(self: Connection, name: str, arriving: Any) -> None:
        if name.startswith("pushes/"):
            raise StoreError("no permission")
        fetch(self, name, arriving)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "fetch", refused)
        with pytest.raises(StoreError, match="no permission"):
            push_store(small.root, str(hub_folder), mentors=["r20"])
    assert open_store(hub_folder).mentors == ["r8"]
    push_store(small.root, str(hub_folder))
    require_same_rows(hub_folder, small)


def test_an_older_store_document_is_made_anew(small: SmallStore, hub_folder: Path) -> None:
    address = Path(push_store(small.root, str(hub_folder), mentors=["r8"]))
    older = (address / "store.json").read_bytes()
    push_store(small.root, str(hub_folder), mentors=["r20"])
    (address / "store.json").write_bytes(older)  # as one who was slower, and then killed, leaves it
    assert open_store(address).mentors == ["r8"]
    push_store(small.root, str(hub_folder), mentors=["r8"])
    assert open_store(address).mentors == ["r20", "r8"]


def test_lists_that_are_gone_or_rotten_are_put_there_again(
    small: SmallStore, hub_folder: Path
) -> None:
    push_store(small.root, str(hub_folder))
    for path in sorted((hub_folder / "lists").iterdir()):
        content = path.read_bytes()
        path.unlink()
        push_store(small.root, str(hub_folder))
        assert path.read_bytes() == content
        path.write_bytes(bytes(len(content)))
        assert not verify_store(hub_folder).ok
        push_store(small.root, str(hub_folder), overwrite=True)
        assert path.read_bytes() == content


def test_chunks_that_lost_their_record_are_told(small: SmallStore, hub_folder: Path) -> None:
    array = small.array("r8")
    record = sorted(array.commits.iterdir())[3]
    content = record.read_bytes()
    record.write_bytes(content[:-3])
    output = invoke("push", small.root, hub_folder, exit_code=1)
    assert f"mentor r8, view 0, block 3: {record}" in output
    record.write_bytes(content)
    assert "to move: 1 chunks" in invoke("push", small.root, hub_folder)


def test_names_that_share_a_folder_stand_side_by_side(hub_folder: Path, tmp_path: Path) -> None:
    stores = [
        make_store(tmp_path / str(views), views=views, mentors=[name])
        for name, views in (("timm:net", 1), ("timm.net", 2))
    ]
    for small in stores:
        push_store(small.root, str(hub_folder))
    assert open_store(hub_folder).mentors == ["timm.net"]
    identity = stores[0].open().mentor("timm:net").identity
    (listed,) = Hub(str(hub_folder)).index().stores
    chosen = open_store(f"{hub_folder}/stores/{listed}+{identity}")
    assert chosen.mentors == ["timm:net"]


def stated_loss(kl: float, record: dict[str, Any]) -> None:
    record["error_sums"].update(kl_t1=kl, measured_rows=1.0)


def test_of_variants_as_full_the_one_that_lost_less_stands(
    hub_folder: Path, tmp_path: Path
) -> None:
    encoders = ("sqrt8", "float16", "float32")
    for encoder in encoders:
        small = make_store(tmp_path / encoder, num_classes=10, encoder=encoder)
        stored = small.open().mentor("r20")
        kl = {"sqrt8": 1e-4, "float16": 1e-7, "float32": 0.0}[encoder]
        change = partial(stated_loss, kl)
        for record in stored.array.commits.iterdir():
            alter(record, change)
        result = PushJob(small.root, str(hub_folder)).run()
        assert "+" not in result.address
        assert open_store(hub_folder).mentor("r20").encoder.name == encoder
    coarse = PushJob(tmp_path / "sqrt8", str(hub_folder)).run()
    assert open_store(coarse.address).mentor("r20").encoder.name == "sqrt8"
    assert open_store(coarse.short_address).mentor("r20").encoder.name == "sqrt8"


def test_the_licence_stays_on_the_card(small: SmallStore, hub_folder: Path) -> None:
    card = hub_folder / "stores" / small.open().fingerprint / "README.md"
    invoke("card", small.root, "--licence", "cc-by-4.0")
    invoke("push", small.root, hub_folder, "--views", 1)
    assert 'license: "cc-by-4.0"' in card.read_text()
    (small.root / "README.md").unlink()
    invoke("push", small.root, hub_folder)
    assert 'license: "cc-by-4.0"' in card.read_text()
    invoke("push", small.root, hub_folder, "--overwrite", "--licence", "ours alone")
    assert 'license_name: "ours alone"' in card.read_text()


def test_views_that_are_not_there_are_told(small: SmallStore, hub_folder: Path) -> None:
    output = invoke("push", small.root, hub_folder, "--views", "1:5")
    assert "not complete here: mentor r8, view 3, 4" in output
    assert f"what was asked for of {small.root} is at the hub" in output


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
