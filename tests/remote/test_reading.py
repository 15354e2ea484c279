"""A store at a URL is the store itself: the same rows, whatever happens on the way."""

import multiprocessing
import pickle
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdcache
from kdcache import homes
from kdcache.encode import ENCODERS
from kdcache.errors import DamagedTargets, MissingTargets, Unreachable, UsageError
from kdcache.store import TargetStore, write_commit_index
from kdcache.stream import TargetStream
from tests.remote.conftest import VIEWS
from tests.remote.serving import Server, serving
from tests.store.small import SmallStore, block_of, commit_rows, make_store


def require_same_rows(store: TargetStore, small: SmallStore) -> None:
    """Every row of every view, directly and streamed."""
    local = small.open()
    assert store.mentors == local.mentors
    assert store.manifest == local.manifest
    np.testing.assert_array_equal(store.index_N, local.index_N)
    np.testing.assert_array_equal(store.labels_N, local.labels_N)
    stream = TargetStream(store, device="cpu")
    for view in range(local.num_views):
        rows = local.targets(view, local.index_N)
        np.testing.assert_array_equal(store.targets(view, store.index_N), rows)
        with stream.view(view) as targets:
            np.testing.assert_array_equal(targets[store.index_N].numpy(), rows)


def test_over_http_every_row_is_the_local_stores(small: SmallStore, url: str) -> None:
    store = kdcache.open_store(url)
    require_same_rows(store, small)
    assert store.address == url
    assert kdcache.inspect_store(store) == kdcache.inspect_store(small.open())


@settings(deadline=None, max_examples=8)
@given(
    num_samples=st.integers(1, 20),
    block=st.integers(1, 9),
    views=st.integers(1, 3),
    encoder=st.sampled_from(list(ENCODERS)),
    indexed=st.booleans(),
)
def test_every_row_is_the_local_stores_whatever_the_store(
    num_samples: int, block: int, views: int, encoder: str, indexed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDCACHE_HOME", f"{folder}/home")
        block_of(monkeypatch, block)
        small = make_store(
            Path(folder) / "store",
            num_samples=num_samples,
            views=views,
            mentors=["r8", "r20"],
            encoder=encoder,
        )
        if indexed:
            stored = small.open().mentor("r20")
            write_commit_index(stored.array, stored.commits.values())
        memory = fsspec.filesystem("memory")
        memory.put(str(small.root), "/kdcache-test/store", recursive=True)
        try:
            require_same_rows(kdcache.open_store("memory://kdcache-test/store/"), small)
        finally:
            memory.rm("/kdcache-test", recursive=True)
        require_same_rows(kdcache.open_store(small.root.as_uri()), small)


def test_a_file_url_is_the_folder_itself(small: SmallStore) -> None:
    store = kdcache.open_store(small.root.as_uri())
    assert store.root == small.root
    assert store.remote is None
    assert not homes.mirrors().exists()
    with pytest.raises(UsageError, match="of the host 'elsewhere'"):
        kdcache.open_store("file://elsewhere/store")


def test_a_second_run_fetches_no_chunk_and_no_list(
    small: SmallStore, server: Server, url: str
) -> None:
    require_same_rows(kdcache.open_store(url), small)
    assert len(server.chunks) == len(set(server.chunks)) == VIEWS * 2 * 4
    server.forget()
    require_same_rows(kdcache.open_store(url), small)
    assert server.chunks == []
    assert not any("/c/0" in path for path in server.asked)


def test_opening_asks_for_few_files_when_the_commits_are_gathered(
    small: SmallStore, server: Server, url: str
) -> None:
    for stored in small.open().sound_mentors:
        write_commit_index(stored.array, stored.commits.values())
    kdcache.open_store(url)
    per_mentor = ("", "zarr.json", "logits/zarr.json", "logits/commits.json", "logits/commits/")
    expected = {"/store/zarr.json", "/store/mentors/"}
    expected |= {f"/store/mentors/{name}/{path}" for name in ("r8", "r20") for path in per_mentor}
    assert sorted(server.asked) == sorted(expected)


def test_several_chunks_are_on_their_way_at_once(
    small: SmallStore, server: Server, url: str
) -> None:
    store = kdcache.open_store(url)
    # No request is answered before eight are there: reading one after another would fail.
    server.gather = threading.Barrier(8)
    rows = store.targets(0, store.index_N)
    np.testing.assert_array_equal(rows, small.open().targets(0, store.index_N))
    assert not server.gather.broken


def test_the_next_view_is_fetched_while_one_is_in_use(server: Server, url: str) -> None:
    stream = TargetStream(url, device="cpu")
    assert not any("/c/1/" in path for path in server.chunks)
    with stream.view(0):
        waited_until(lambda: sum("/c/1/" in path for path in server.chunks) == 8)
        # It is in memory then, and the one after it is fetched ahead.
        waited_until(lambda: sum("/c/2/" in path for path in server.chunks) == 8)
    assert len(server.chunks) == len(set(server.chunks))


def test_no_more_is_fetched_ahead_than_may_wait(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kdcache.open_store(url)
    size = store.chunk_bytes("r8") + 4
    monkeypatch.setattr("kdcache.remote.fetching.MOST_AHEAD", 3 * size)
    stored = store.mentor("r8")
    store.expect((stored, view, block) for view in range(VIEWS) for block in range(4))
    waited_until(lambda: len(server.chunks) == 3)
    time.sleep(0.2)
    assert len(server.chunks) == 3
    store.targets(0, store.index_N[:1], ["r8"])


def waited_until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_loses_nothing(small: SmallStore, server: Server, url: str, ranges: bool) -> None:
    server.ranges = ranges
    for part in ("r8/logits/c/0/1/0", "r20/logits/c/1/3/0", "/store/zarr.json", "index/c/0"):
        server.fail(part, "cut", "cut", 503, "cut")
    require_same_rows(kdcache.open_store(url), small)
    cut = "/store/mentors/r8/logits/c/0/1/0"
    assert cut in server.rests
    size = (small.root.parent / cut[1:]).stat().st_size
    assert (server.sent[cut] == size) == ranges  # where it can, it goes on from the cut


def test_a_dead_server_is_one_error_and_goes_on_when_it_is_back(
    small: SmallStore, server: Server, url: str
) -> None:
    stream = TargetStream(url, device="cpu")
    server.fail("/c/1/", *[500] * 1000)
    with stream.view(0) as targets:
        np.testing.assert_array_equal(
            targets[small.open().index_N].numpy(), small.open().targets(0, small.open().index_N)
        )
    with pytest.raises(Unreachable, match=r"/c/1/.* 500 .*tried 5 times.*same command again") as e:
        stream.view(1).__enter__()
    assert e.value.exit_code == 1
    server.faults.clear()
    with stream.view(1) as targets:
        np.testing.assert_array_equal(
            targets[small.open().index_N].numpy(), small.open().targets(1, small.open().index_N)
        )


def test_nobody_at_the_address() -> None:
    with serving(Path.cwd()) as server:
        url = f"{server.url}/store"
    with pytest.raises(Unreachable, match=r"tried 5 times.*check the network and the server"):
        kdcache.open_store(url)


def test_a_damaged_chunk_is_the_local_error_with_its_url(
    small: SmallStore, url: str, server: Server
) -> None:
    path = small.array("r20").chunk(1, 2)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    store = kdcache.open_store(url)
    reason = "its CRC32C differs from the committed one"
    with pytest.raises(DamagedTargets, match=f"view 1, block 2 are damaged: {reason}") as local:
        small.open().targets(1, store.index_N)
    with pytest.raises(DamagedTargets, match=f"view 1, block 2 are damaged: {reason}") as remote:
        store.targets(1, store.index_N)
    assert (
        str(local.value).replace(str(small.root), url).partition(" with: ")[0]
        == (str(remote.value).partition(" with: ")[0])
    )
    assert "--store STORE" in str(remote.value)
    assert f"# STORE: the folder behind {url}" in str(remote.value)
    np.testing.assert_array_equal(
        store.targets(0, store.index_N), small.open().targets(0, store.index_N)
    )
    path.write_bytes(content[:-9])
    with pytest.raises(DamagedTargets, match=f"{len(content) - 9} bytes instead of {len(content)}"):
        store.targets(1, store.index_N)
    path.write_bytes(content + b"more")
    with pytest.raises(DamagedTargets, match=f"more than {len(content)} bytes"):
        store.targets(1, store.index_N)
    path.unlink()
    with pytest.raises(DamagedTargets, match="the file is gone"):
        store.targets(1, store.index_N)
    server.fail("r20/logits/c/1/2/0", "page", "page")
    with pytest.raises(DamagedTargets, match=r"bytes instead of .*; a web page arrived"):
        store.targets(1, store.index_N)


def test_a_chunk_healed_since_it_was_opened_is_read(small: SmallStore, url: str) -> None:
    store = kdcache.open_store(url)
    index = store.index_N
    before = store.targets(1, index, ["r20"])
    heal_with_other_rows(small)
    after = small.open().targets(1, index, ["r20"])
    assert not np.array_equal(after, before)
    # What was fetched is still what its record says; it is read until the store is opened anew.
    np.testing.assert_array_equal(store.targets(1, index, ["r20"]), before)
    np.testing.assert_array_equal(kdcache.open_store(url).targets(1, index, ["r20"]), after)


def test_a_chunk_healed_between_opening_and_reading_is_read(small: SmallStore, url: str) -> None:
    store = kdcache.open_store(url)
    heal_with_other_rows(small)
    np.testing.assert_array_equal(
        store.targets(1, store.index_N), small.open().targets(1, store.index_N)
    )
    require_same_rows(kdcache.open_store(url), small)


def heal_with_other_rows(small: SmallStore) -> None:
    """Block 2 of view 1 of r20 is damaged and computed anew, by a mentor that says otherwise."""
    store = small.open()
    path = store.mentor("r20").array.chunk(1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    commit_rows(store, "r20", (1, 2), np.full((8, 100), -4.0, dtype=np.float32))


@pytest.mark.parametrize("how", ["flipped", "cut", "another"])
def test_what_the_mirror_has_is_checked_and_fetched_again(
    small: SmallStore, server: Server, url: str, how: str
) -> None:
    store = kdcache.open_store(url)
    for view in range(VIEWS):  # by no stream, which would go on reading in the background
        store.targets(view, store.index_N)
    path = store.mentor("r8").array.chunk(0, 0)
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[3] ^= 1
    path.write_bytes(content[:-1] if how == "cut" else content)
    if how == "another":
        path.write_bytes(store.mentor("r8").array.chunk(0, 1).read_bytes())
    server.forget()
    require_same_rows(kdcache.open_store(url), small)
    assert server.chunks == ["/store/mentors/r8/logits/c/0/0/0"]


def test_a_store_that_grows_and_loses_is_seen_as_it_is(small: SmallStore, url: str) -> None:
    kdcache.open_store(url)
    store = small.open()
    record = store.mentor("r20").commits[2, 0]
    (store.mentor("r20").array.commits / record.file_name).unlink()
    again = kdcache.open_store(url)
    with pytest.raises(MissingTargets, match=f"{url} has no targets of mentor 'r20' for view 2"):
        again.targets(2, again.index_N[:1])
    for path in sorted((small.root / "mentors" / "r8").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (small.root / "mentors" / "r8").rmdir()
    assert kdcache.open_store(url).mentors == ["r20"]


def test_a_damaged_record_is_fetched_anew_when_it_was_healed(small: SmallStore, url: str) -> None:
    stored = small.open().mentor("r8")
    path = stored.array.commits / stored.commits[0, 0].file_name
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"view": 0', b'"view": 1'))
    broken = kdcache.open_store(url)
    with pytest.raises(DamagedTargets, match="its content is not what was sealed") as error:
        broken.targets(0, broken.index_N)
    assert f"{url}/mentors/r8/logits/commits/" in str(error.value)
    path.write_bytes(content)
    require_same_rows(kdcache.open_store(url), small)


def test_the_mirrors_stay_within_their_bound(
    small: SmallStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = small.open().chunk_bytes("r8") + 4
    bound = 5 * size + 1  # a view has eight chunks, the store twenty-four
    monkeypatch.setenv("KDCACHE_MIRROR_GB", str(bound / 1e9))
    store = kdcache.open_store(url)
    for _ in range(2):
        require_same_rows(store, small)
        assert mirrored_bytes() <= bound
    monkeypatch.setenv("KDCACHE_MIRROR_GB", "0")  # not even one: each goes when the next comes
    require_same_rows(kdcache.open_store(url), small)
    assert mirrored_bytes() <= 8 * size
    monkeypatch.setenv("KDCACHE_MIRROR_GB", "a lot")
    with pytest.raises(UsageError, match="KDCACHE_MIRROR_GB must be a number of gigabytes"):
        kdcache.open_store(url)


def mirrored_bytes() -> int:
    """Of chunks of targets, unfinished ones too."""
    files = homes.mirrors().glob("*/mentors/*/*/c/**/*")
    return sum(path.stat().st_size for path in files if path.is_file())


def test_an_open_stream_can_be_pickled_and_forked(small: SmallStore, url: str) -> None:
    stream = TargetStream(url, device="cpu")
    index = stream.store.index_N
    with stream.view(0):
        pass
    again = pickle.loads(pickle.dumps(stream))
    with again.view(2) as targets:
        expected = small.open().targets(2, index)
        np.testing.assert_array_equal(targets[index].numpy(), expected)
    for path in stream.store.root.glob("mentors/*/logits/c/1/*/0"):
        path.unlink()
    parent, child = multiprocessing.Pipe()
    forked = multiprocessing.get_context("fork").Process(
        target=_send_rows, args=(child, stream.store, 1)
    )
    forked.start()
    assert parent.poll(60)
    rows = parent.recv()
    forked.join()
    np.testing.assert_array_equal(rows, small.open().targets(1, index))


def test_several_processes_share_a_mirror_that_is_too_small(
    small: SmallStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = small.open().chunk_bytes("r8") + 4
    monkeypatch.setenv("KDCACHE_MIRROR_GB", str(5 * size / 1e9))
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(3)]
    readers = [context.Process(target=_send_all_rows, args=(child, url)) for _, child in pipes]
    for reader in readers:
        reader.start()
    expected = small.decoded
    for parent, _ in pipes:
        assert parent.poll(100)
        rows_VNMC = parent.recv()
        np.testing.assert_array_equal(rows_VNMC[:, :, 0], expected["r20"])
        np.testing.assert_array_equal(rows_VNMC[:, :, 1], expected["r8"])
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0


def _send_all_rows(pipe: Connection, url: str) -> None:
    store = kdcache.open_store(url)
    for _ in range(3):
        rows = [store.targets(view, store.index_N, ["r20", "r8"]) for view in range(VIEWS)]
    pipe.send(np.stack(rows))


def _send_rows(pipe: Connection, store: TargetStore, view: int) -> None:
    pipe.send(store.targets(view, store.index_N))
