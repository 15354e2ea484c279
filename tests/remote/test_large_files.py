"""A mentor's checkpoint may have 8 GiB: what is put from a file is never in memory as a whole."""

import tracemalloc
from pathlib import Path

import pytest

from kdcache.checkpoints import file_sha256
from kdcache.remote import Connection
from tests.servers import WRITABLE, start_server

MB = 2**20
LARGE = 161 * MB + 3


@pytest.mark.parametrize("kind", WRITABLE)
def test_a_large_file_goes_in_parts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    with open(large, "wb") as file:
        for number in range(LARGE // MB):
            file.seek(number * MB)
            file.write(number.to_bytes(4, "little"))
        file.truncate(LARGE)
    with start_server(kind, tmp_path / "server", monkeypatch) as server:
        connection = Connection(server.url)
        connection.put("small", b"connected")
        tracemalloc.start()
        try:
            connection.put("folder/large", large)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 100 * MB
        assert connection.sizes("folder") == {"large": LARGE}
        assert file_sha256(server.folder / "folder" / "large") == file_sha256(large)
