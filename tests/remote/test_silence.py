"""A server that accepts and never answers: it is said soon, and given up as patience says."""

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from kdcache.errors import Unreachable, UsageError
from kdcache.remote import Connection


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT of one; what is 10 s elsewhere is 0.3 s here."""
    monkeypatch.setattr("kdcache.remote.patience.SILENCE", 0.3)
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
    monkeypatch.setenv("KDCACHE_PATIENCE", "0.5")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        yield address


@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_silence_is_said_once_and_ends(
    silent: str, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(f"http://{silent}/hub" if protocol == "http" else "s3://bucket/hub")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "kdcache"), pytest.raises(Unreachable):
        connection.names("")
    assert time.monotonic() - started < 30  # five attempts of half a second, and a slow machine
    said = [record.message for record in caplog.records if "has not answered" in record.message]
    assert said == [f"{connection.address} has not answered for 0 s; still waiting"]


def test_patience_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_PATIENCE", "long")
    with pytest.raises(UsageError, match="must be a number of seconds"):
        Connection("http://127.0.0.1:1/x").names("")
