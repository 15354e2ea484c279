"""A store at a hub that changes while people read it: what their mirrors then have."""

import re
import shutil
import time
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest

from kdcache.errors import MissingTargets, Unreachable
from kdcache.remote import Connection
from kdcache.share import Hub, PushJob
from kdcache.store import TargetStore, chunks, open_store
from kdcache.store.opening import split_place
from tests.remote.serving import Handler, serving
from tests.share.team import Home
from tests.store.small import SmallStore, files_of, make_store
from tests.store.test_kinds import add_kind


def test_a_kind_that_the_hub_no_longer_has_leaves_the_mirror(
    small: SmallStore, hub_folder: Path
) -> None:
    add_kind(small, "r8", "features", views=3)
    PushJob(small.root, str(hub_folder)).run()
    (features,) = [s for s in open_store(hub_folder).sound_targets if s.kind.name == "features"]
    assert len(features.commits) == 12
    spare = open_store(hub_folder).mentor("r8").array.spare_encoder
    spare.write_text("{}")  # as of a variant that had one
    shutil.rmtree(hub_folder)
    shutil.rmtree(small.root / "mentors" / "r8" / "features")
    PushJob(small.root, str(hub_folder)).run()

    found = open_store(hub_folder)
    assert found.kinds("r8") == ("logits",)
    assert not found.target_errors
    with pytest.raises(MissingTargets, match="no features of r8"):
        found.mentor("r8", "features")
    assert not spare.exists()


def push_other_bits(small: SmallStore, hub_folder: Path) -> SmallStore:
    """The same mentors' targets of the same views as another machine computes them: a store that
    replaces what the hub had."""
    other = make_store(
        small.root.with_name("other"), num_samples=32, num_classes=10, views=3,
        mentors=["r20", "r8"],
    )  # fmt: skip
    for name in ("stores", "pushes"):
        shutil.rmtree(hub_folder / name)
    PushJob(other.root, str(hub_folder)).run()
    return other


def reads_as(store: TargetStore, small: SmallStore, views: int = 3) -> bool:
    """Whether a store's targets are these."""
    return all(
        np.array_equal(store.targets(view, store.index_N, [name])[:, 0], small.decoded[name][view])
        for name in ("r8", "r20")
        for view in range(views)
    )


def test_readers_of_one_mirror_by_other_records_do_not_disturb_each_other(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    before = open_store(hub_folder)
    other = push_other_bits(small, hub_folder)
    after = open_store(hub_folder)
    assert before.root == after.root
    read_payload = chunks.read_payload
    disturbing: list[Path] = []

    def disturbed(buffer: memoryview, path: Path, *rest: Any) -> None:
        """Right before a chunk of the mirror is read, the other reader has put its own there."""
        if path.name == "0" and not disturbing:
            disturbing.append(path)
            mentor, view, block = (path.parts[number] for number in (-6, -3, -2))
            rows = after.index_N[after.manifest.block_rows(int(block))]
            after.targets(int(view), rows, [mentor])
            disturbing.clear()
        read_payload(buffer, path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(chunks, "read_payload", disturbed)
        assert reads_as(before, small)
    assert reads_as(after, other)
    assert not list(before.root.rglob("*.tmp"))


def test_whoever_reads_by_old_records_finds_all_that_was_computed_anew(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    before = open_store(hub_folder)
    shutil.rmtree(hub_folder / "chunks")
    other = push_other_bits(small, hub_folder)
    documents, fetch = [], Connection.fetch

    def slowly(connection: Connection, name: str, arriving: Any) -> None:
        if name.endswith("store.json"):
            documents.append(name)
            time.sleep(0.2)
        fetch(connection, name, arriving)

    monkeypatch.setattr(Connection, "fetch", slowly)
    assert reads_as(before, other)
    assert 1 <= len(documents) < 24  # chunks


@pytest.mark.parametrize("part", ["store.json", "index.json"])
def test_a_document_that_is_replaced_while_it_comes_is_one_of_the_two(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
    hub = Hub(str(hub_folder))
    PushJob(small.root, hub, mentors=["r8"]).run()
    with serving(hub_folder.parent) as server:

        def cut_and_replaced(handler: Handler) -> None:
            content = Path(handler.translate_path(handler.path)).read_bytes()
            PushJob(small.root, hub).run()
            handler.close_connection = True
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])

        server.fail(part, cut_and_replaced)
        assert open_store(f"{server.url}/{hub_folder.name}").mentors == ["r20", "r8"]


def test_a_document_that_never_comes_whole_is_given_up(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
    monkeypatch.setattr("kdcache.remote.connection.PROGRESS", 16)
    monkeypatch.setenv("KDCACHE_PATIENCE", "0")
    PushJob(small.root, str(hub_folder)).run()
    with serving(hub_folder.parent) as server:
        server.fail("store.json", *["cut"] * 99)
        with pytest.raises(Unreachable, match="cannot be read"):
            open_store(f"{server.url}/{hub_folder.name}")
        assert len(server.faults["store.json"]) > 80


def add_variant(small: SmallStore, hub_folder: Path, views: int) -> SmallStore:
    """Somebody else's r8, by another encoder, pushed."""
    other = make_store(
        small.root.with_name("variant"), num_samples=32, num_classes=10, views=views,
        mentors=["r8"], encoder="float32",
    )  # fmt: skip
    PushJob(other.root, str(hub_folder)).run()
    return other


def test_what_was_opened_is_found_again_after_somebody_pushed_a_fuller_variant(
    small: SmallStore, hub_folder: Path
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    plain = open_store(hub_folder)
    remote = plain.remote
    assert remote is not None
    lasting = remote.address_of(plain.mentor(name).identity for name in plain.mentors)
    again = open_store(lasting)
    assert (again.address, again.root) == (plain.address, plain.root)  # one mirror, not two

    other = add_variant(small, hub_folder, 5)
    begins = other.open().mentor("r8").identity[:16]
    fuller = open_store(hub_folder)
    assert fuller.address == f"{plain.address}+{begins}"
    assert fuller.mentor("r8").encoder.name == "float32"
    for address in (lasting, f"{plain.address}+{plain.mentor('r8').identity[:8]}"):
        again = open_store(address)
        assert again.address == f"{plain.address}+{plain.mentor('r8').identity[:16]}"
        assert reads_as(again, small)
    assert reads_as(plain, small)


def test_pulling_once_more_tells_where_the_same_variant_is(
    small: SmallStore, hub_folder: Path, tmp_path: Path
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    home = Home(tmp_path / "home")
    pulled = tmp_path / "pulled"
    home.run("pull", hub_folder, "--store", pulled, "--views", 1)
    add_variant(small, hub_folder, 5)
    told = home.run("pull", hub_folder, "--store", pulled, codes=(1, 2))
    (address,) = re.findall(r"go on with (\S+), which has these", told)
    assert address.endswith(f"+{small.open().mentor('r8').identity[:16]}")
    assert f"from {address}" in home.run("pull", address, "--store", pulled)
    assert reads_as(open_store(pulled), small)


@pytest.mark.parametrize(
    "hub", [PurePosixPath("/team/kdcache"), PureWindowsPath(r"C:\team\kdcache"),
            PureWindowsPath(r"\\server\team\kdcache")]
)  # fmt: skip
def test_a_store_of_a_hub_in_a_folder_is_found_by_each_systems_paths(hub: PurePath) -> None:
    assert split_place(hub) == (hub, "")
    store = hub / "stores" / f"{'ab' * 32}+{'cd' * 8}"
    assert split_place(store) == (hub, f"/stores/{store.name}")
    assert split_place(hub / "stores" / "mine") == (hub / "stores" / "mine", "")


def test_a_mirror_is_laid_out_once_for_one_document(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    add_variant(small, hub_folder, 5)
    first = open_store(hub_folder)
    before = files_of(first.root)
    with monkeypatch.context() as patched:
        patched.setattr("kdcache.store.remote_hub_store.sealed_index", None)  # needed to lay it out
        patched.setattr("kdcache.store.gathered.GatheredStore.from_json", None)
        again = open_store(hub_folder)
    assert (again.address, again.root) == (first.address, first.root)
    assert files_of(first.root) == before
    assert again.mentor("r8").commits == first.mentor("r8").commits
    push_other_bits(small, hub_folder)
    assert open_store(hub_folder).mentor("r8").commits != first.mentor("r8").commits


@pytest.mark.parametrize("name", ["zarr.json", "mentors/r8/logits/commits.json",
                                  "mentors/r8/logits/zarr.json", "mirror.json"])  # fmt: skip
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_mirror_that_suffered_is_laid_out_again(
    small: SmallStore, hub_folder: Path, name: str, content: bytes | None
) -> None:
    PushJob(small.root, str(hub_folder)).run()
    root = open_store(hub_folder).root
    before = {path: kept for path, (kept, _) in files_of(root).items()}
    if content is None:
        (root / name).unlink()
    else:
        (root / name).write_bytes(content)
    next((root / "mentors/r20/logits/commits").iterdir()).unlink()
    (root / "mentors/r20/features").mkdir()
    (root / "mentors/r20/features/zarr.json").write_text("{}")
    assert reads_as(open_store(hub_folder), small)
    del before[".lock"]
    after = {path: kept for path, (kept, _) in files_of(root).items()}
    assert before.items() <= after.items()
    assert "mentors/r20/features/zarr.json" not in after
