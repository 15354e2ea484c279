"""Servers that are killed, cut and stalled while files move; real ones, with real patience."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache import durable
from kdcache.errors import Stopped, Unreachable
from kdcache.remote import CONNECTIONS, ArrivingDocument, Connection, interrupt
from tests.remote.test_connection import content_of, fetched, poison
from tests.servers import Proxy, Server, start_server

RATE = 8e6  # bytes a second
BIG = content_of(5, 3_000_000)
NETWORK = ("http", "sftp", "s3")
BY_NETWORK = pytest.mark.parametrize("kind", NETWORK)
WRITING = pytest.mark.parametrize("kind", ["sftp", "s3"])


@pytest.fixture(autouse=True)
def some_patience(monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> None:
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.05, 0.1, 0.2, 0.4))
    monkeypatch.setenv("KDCACHE_PATIENCE", "20")


@contextmanager
def running(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float | None = RATE
) -> Iterator[tuple[Server, Proxy]]:
    with start_server(kind, tmp_path / "server", monkeypatch, rate=rate, proxied=True) as server:
        assert server.proxy is not None
        yield server, server.proxy


def begun(work: Callable[[], object]) -> "Future[object]":
    pool = ThreadPoolExecutor(1)
    future: Future[object] = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@BY_NETWORK
def test_a_fetch_goes_on_after_the_server_was_killed(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(kind, tmp_path, monkeypatch) as (server, proxy):
        poison(server, "small", b"small")
        poison(server, "big", BIG)
        connection = Connection(server.url)
        assert fetched(connection, "small") == b"small"
        proxy.forget()
        fetch = begun(lambda: fetched(connection, "big"))
        wait_for(lambda: proxy.down > 1_000_000)
        server.kill()
        time.sleep(0.5)
        assert not fetch.done()
        server.start()
        assert fetch.result(20) == BIG
        if kind == "http":  # the others fetch a piece of some megabytes anew
            assert proxy.down < 1.3 * len(BIG)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert f"{connection.address} does not answer (" in told[0]
    assert "; waiting up to" in told[0]
    assert told[1] == f"{connection.address} answers again"


@WRITING
def test_a_put_goes_on_after_the_server_was_killed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(kind, tmp_path, monkeypatch) as (server, proxy):
        connection = Connection(server.url)
        connection.put("file", b"before")
        proxy.forget()
        put = begun(lambda: connection.put("file", BIG))
        wait_for(lambda: proxy.up > 1_000_000)
        server.kill()
        assert (server.folder / "file").read_bytes() == b"before"
        time.sleep(0.3)
        assert not put.done()
        server.start()
        put.result(20)
        assert (server.folder / "file").read_bytes() == BIG
        assert connection.sizes("") == {"file": len(BIG)}
        assert connection.names("") == ["file"]


@BY_NETWORK
def test_cut_connections_are_made_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(kind, tmp_path, monkeypatch, rate=2e7) as (server, proxy):
        poison(server, "big", BIG)
        connection = Connection(server.url)
        for cut_after in (1, 1_000, 200_000, 2_900_000):
            proxy.cut_after(cut_after)
            assert fetched(connection, "big") == BIG
        if kind != "http":
            for cut_after in (1, 1_000, 200_000, 2_900_000):
                proxy.cut_after(cut_after)
                connection.put(f"put-{cut_after}", BIG)
                assert (server.folder / f"put-{cut_after}").read_bytes() == BIG
    assert not caplog.records  # what passes at once is not worth a line


@BY_NETWORK
def test_a_server_killed_for_good_ends_patience_once_for_all(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KDCACHE_PATIENCE", "1.5")
    with running(kind, tmp_path, monkeypatch, rate=None) as (server, _):
        poison(server, "file", b"there")
        connection = Connection(server.url)
        assert fetched(connection, "file") == b"there"
        server.kill()
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            fetches = [pool.submit(fetched, connection, "file") for _ in range(CONNECTIONS)]
            for fetch in fetches:
                with pytest.raises(Unreachable, match=r"cannot be read .*run the same command"):
                    fetch.result()
        assert 1.5 <= time.monotonic() - began < 30
        assert len([r for r in caplog.records if "does not answer" in r.getMessage()]) == 1
        began = time.monotonic()
        with pytest.raises(Unreachable, match="tried 5 times"):
            fetched(connection, "file")
        assert time.monotonic() - began < 2  # not as long again
        server.start()
        assert fetched(connection, "file") == b"there"
        assert caplog.records[-1].getMessage() == f"{connection.address} answers again"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/hub",
        "sftp://127.0.0.1:9/hub",
        "http://no-such-host.invalid/hub",
        "sftp://no-such-host.invalid/hub",
    ],
)
def test_a_server_that_never_answered_is_given_up_soon(url: str) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="tried 5 times"):
        fetched(Connection(url), "hub.json")
    assert time.monotonic() - began < 5


def test_one_file_that_fails_while_others_come_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running("http", tmp_path, monkeypatch, rate=None) as (server, _):
        poison(server, "file", b"there")
        connection = Connection(server.url)
        fetched(connection, "file")
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                fetched(connection, "file")

        reading = begun(read)
        began = time.monotonic()
        with pytest.raises(Unreachable, match="500"):
            fetched(connection, "broken/file")
        assert time.monotonic() - began < 5
        over.set()
        reading.result()


@BY_NETWORK
def test_interruptions_do_not_wait(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.remote.waiting._GRACE", 0.3)
    with running(kind, tmp_path, monkeypatch, rate=None) as (server, proxy):
        poison(server, "big", BIG)
        connection = Connection(server.url)
        fetched(connection, "big")
        proxy.flowing.clear()  # a cable is pulled: nobody hears of it
        try:
            fetch = begun(lambda: fetched(connection, "big"))
            time.sleep(0.2)
            assert not fetch.done()
            interrupt(asked=True)
            with pytest.raises(Stopped):
                fetch.result(3)
            interrupt(asked=False)
            stopped = begun(lambda: fetched(connection, "big"))
            time.sleep(0.2)
            connection.stop()
            with pytest.raises(Stopped):
                stopped.result(3)
        finally:
            interrupt(asked=False)
            proxy.flowing.set()
        server.kill()
        other = Connection(server.url)
        waiting = begun(lambda: fetched(other, "big"))
        time.sleep(0.1)
        other.stop()
        with pytest.raises(Stopped):
            waiting.result(3)


def test_what_a_cut_left_behind_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    with running("sftp", tmp_path, monkeypatch) as (server, proxy):
        connection = Connection(server.url)
        connection.put("before", b"")
        put = begun(lambda: connection.put("file", BIG))
        wait_for(lambda: proxy.up > 1_000_000)
        server.kill()
        connection.stop()
        with pytest.raises(Stopped):
            put.result(20)
        left = [path for path in server.folder.iterdir() if durable.is_aside(path.name)]
        assert len(left) == 1
        server.start()
        again = Connection(server.url)
        assert again.sizes("") == {"before": 0}
        again.put("file", BIG)
        assert again.sizes("") == {"before": 0, "file": len(BIG)}


def test_a_connection_is_pickled_and_forked_without_its_network(any_server: Server) -> None:
    import pickle

    poison(any_server, "file", b"there")
    connection = Connection(any_server.url)
    arriving = ArrivingDocument(10)
    connection.fetch("file", arriving)
    assert fetched(pickle.loads(pickle.dumps(connection)), "file") == b"there"
