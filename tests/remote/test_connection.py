"""Connections to real servers: what is put arrives whole, and comes back bit for bit."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache import durable
from kdcache.errors import StoreError
from kdcache.remote import (
    CONNECTIONS,
    ArrivingDocument,
    Connection,
    NotListed,
    NotThere,
    TooLarge,
)
from tests.servers import KINDS, WRITABLE, Server, start_server

MB = 2**20
# Around the pieces that protocols cut files into.
EDGES = (0, 1, 2**16 - 1, 2**16, 2**22, 2**22 + 1, 2**24, 2**24 + 1)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**17))
anew = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def content_of(seed: int, num_bytes: int) -> bytes:
    return random.Random(seed).randbytes(num_bytes)


def fetched(connection: Connection, name: str, most: int = 2**26) -> bytes:
    arriving = ArrivingDocument(most)
    connection.fetch(name, arriving)
    return bytes(arriving.content)


def poison(server: Server, name: str, content: bytes) -> None:
    """Puts a file there behind the server's back."""
    path = server.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_what_is_put_is_there_and_comes_back(writable_server: Server) -> None:
    connection = Connection(writable_server.url)
    expected: dict[str, bytes] = {}

    @anew
    @given(
        seed=st.integers(0, 2**32), num_bytes=sizes, name=st.sampled_from(["a", "b.json", "c-d_e"])
    )
    def check(seed: int, num_bytes: int, name: str) -> None:
        content = expected[name] = content_of(seed, num_bytes)
        connection.put(f"deep/er/{name}", memoryview(content))
        assert (writable_server.folder / "deep" / "er" / name).read_bytes() == content
        assert fetched(connection, f"deep/er/{name}", most=num_bytes) == content
        assert connection.sizes("deep/er") == {n: len(found) for n, found in expected.items()}
        assert set(connection.names("deep/er")) == set(expected)
        assert connection.names("deep") == ["er"]
        assert connection.sizes("deep") == {}

    check()


@anew
@given(seed=st.integers(0, 2**32), num_bytes=sizes)
def test_memory_takes_every_size(seed: int, num_bytes: int) -> None:
    connection, content = Connection("memory://round/trips"), content_of(seed, num_bytes)
    connection.put("file", content)
    assert fetched(connection, "file") == content
    assert connection.sizes("") == {"file": num_bytes}


def test_any_servers_files_are_read(any_server: Server) -> None:
    connection = Connection(any_server.url)
    for num_bytes in EDGES:
        content = content_of(num_bytes, num_bytes)
        poison(any_server, f"some/{num_bytes}", content)
        assert fetched(connection, f"some/{num_bytes}", most=num_bytes) == content
        if num_bytes:
            with pytest.raises(TooLarge):
                fetched(connection, f"some/{num_bytes}", most=num_bytes - 1)
    assert set(connection.names("some")) == {str(num_bytes) for num_bytes in EDGES}
    assert connection.names("") == ["some"]
    with pytest.raises(NotThere):
        fetched(connection, "some/other")
    with pytest.raises(NotThere):
        connection.names("other")
    if any_server.kind == "http":
        with pytest.raises(NotListed, match="do not tell the bytes"):
            connection.sizes("some")
    else:
        assert connection.sizes("some") == {str(num_bytes): num_bytes for num_bytes in EDGES}
        assert connection.sizes("other") == {}


def test_what_changed_on_the_server_is_seen(any_server: Server) -> None:
    connection = Connection(any_server.url)
    for step in range(1, 4):
        poison(any_server, "index.json", bytes([step]) * step * 1000)
        poison(any_server, f"more/{step}", b"")
        assert fetched(connection, "index.json") == bytes([step]) * step * 1000
        assert len(connection.names("more")) == step


def test_an_unlisted_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server("http", tmp_path / "server", monkeypatch, lists=False) as server:
        poison(server, "some/file", b"there")
        connection = Connection(server.url)
        assert fetched(connection, "some/file") == b"there"
        with pytest.raises(NotListed, match="403"):
            connection.names("some")


def test_a_put_replaces_and_many_are_put_in_order(writable_server: Server, tmp_path: Path) -> None:
    connection = Connection(writable_server.url)
    for num_bytes in (100_000, 0, 10, 5_000_000, 3):
        connection.put("index.json", content_of(1, num_bytes))
        assert fetched(connection, "index.json") == content_of(1, num_bytes)
    file = tmp_path / "chunk"
    file.write_bytes(b"from a file")
    connection.put_many([("a", b"one"), ("b", file), ("a", bytearray(b"two"))])
    assert (fetched(connection, "a"), fetched(connection, "b")) == (b"two", b"from a file")
    assert not connection.commits_puts
    left = [path.name for path in writable_server.folder.rglob("*") if durable.is_aside(path.name)]
    assert left == []


def test_a_reader_sees_the_old_or_the_new_file(writable_server: Server) -> None:
    """S3 itself promises it; rclone's server may say for a moment that there is none."""
    writing, reading = Connection(writable_server.url), Connection(writable_server.url)
    contents = [bytes([step]) * (200_000 + step) for step in range(12)]
    writing.put("index.json", contents[0])
    over = threading.Event()
    seen = []

    def read() -> None:
        while not over.is_set():
            try:
                seen.append(fetched(reading, "index.json"))
            except NotThere:
                assert writable_server.kind == "s3"

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(read)
        for content in contents:
            writing.put("index.json", content)
        over.set()
        future.result()
    assert seen
    if writable_server.kind != "s3":
        assert set(seen) <= set(contents)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_eight_at_once_wait_together(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_server(kind, tmp_path / "server", monkeypatch, proxied=True) as server:
        assert server.proxy is not None
        connection = Connection(server.url)
        names = [f"files/{number}" for number in range(CONNECTIONS)]
        for name in names:
            poison(server, name, name.encode() * 1000)
        fetched(connection, names[0])
        works: list[Callable[[str], object]] = [lambda name: fetched(connection, name)]
        if kind in WRITABLE:
            works.append(lambda name: connection.put(name, b"new" * 1000))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(works[0], names))  # connected
            server.proxy.delay = 0.02 if kind == "sftp" else 0.1
            for work in works:
                # Once in three is enough: the tests may share their cores with anything.
                assert any(_together(pool, work, names) for _ in range(3))


def _together(pool: ThreadPoolExecutor, work: Callable[[str], object], names: list[str]) -> bool:
    """Whether all of it takes less than four times as long as one."""
    began = time.monotonic()
    work(names[0])
    one = time.monotonic() - began
    list(pool.map(work, names))
    return time.monotonic() - began - one < 4 * one


def test_names_that_lead_elsewhere_are_refused(any_server: Server) -> None:
    connection = Connection(any_server.url)
    for name in ("../secret", "a/../../b", "/etc/passwd", "a//b", "", ".", "a\\b", "a\nb"):
        with pytest.raises(StoreError, match="is no name of a file"):
            fetched(connection, name)
        with pytest.raises(StoreError, match="is no name of a file"):
            connection.put(name, b"")


def test_a_folders_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "linked").symlink_to(outside)
    (hub / "file").symlink_to(outside / "mine")
    (tmp_path / "by-another-name").symlink_to(hub)
    connection = Connection(tmp_path / "by-another-name")  # the owner's own link is none of them
    for name in ("linked/mine", "linked/new", "file"):
        with pytest.raises(StoreError, match="behind a symbolic link"):
            connection.put(name, b"overwritten")
        with pytest.raises(StoreError, match="behind a symbolic link"):
            fetched(connection, name)
    assert [path.read_bytes() for path in outside.iterdir()] == [b"mine"]
    assert connection.sizes("") == {}
    connection.put("good", b"good")
    assert (hub / "good").read_bytes() == b"good"


def test_a_folder_is_a_path_or_a_file_url_and_is_made(tmp_path: Path) -> None:
    hub = tmp_path / "new" / "hub"
    assert Connection(hub).sizes("chunks") == {}
    Connection(hub.as_uri()).put("a/b", b"there")
    assert fetched(Connection(hub), "a/b") == b"there"
    assert Connection(hub).address == Connection(hub.as_uri()).address == str(hub)
