"""What no waiting changes is said at once, in one message; real servers refuse for real reasons."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcache.errors import KdcacheError, NoSpace, StoreError
from kdcache.remote import Connection
from kdcache.remote.hf_folder import HfFolder
from tests.remote.test_connection import fetched, poison
from tests.servers import WRITABLE, S3Server, SftpServer, start_server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> None:
    """Long enough that a test which waited would not pass."""
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (1.5,) * 4)


@contextmanager
def refused(match: str, kind: type[KdcacheError] = StoreError) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        yield
    assert type(caught.value) is kind
    assert time.monotonic() - began < 4
    assert len(str(caught.value)) < 900


@contextmanager
def small_disk(place: Path, options: str = "size=1m") -> Iterator[Path]:
    """A file system of a megabyte; the test is skipped where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mounting, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here: that takes root on Linux")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_web_server_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server("http", tmp_path / "server", monkeypatch) as server:
        connection = Connection(server.url)
        with refused(r"can be read only: web servers do not take files. Push to a folder, s3://"):
            connection.put("hub.json", b"{}")
        with refused("can be read only"):
            connection.put_many([("hub.json", b"{}")])
        with refused("can be read only"):
            connection.require_writable()


def test_a_protocol_that_cannot_write_whole_files_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"there")
    connection = Connection(f"local://{tmp_path}")
    assert fetched(connection, "file") == b"there"
    with refused("can be read only: its protocol is not known to make files appear whole"):
        connection.put("file", b"other")


def test_a_read_only_server_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server("sftp", tmp_path / "server", monkeypatch, writable=False) as server:
        poison(server, "file", b"there")
        connection = Connection(server.url)
        assert fetched(connection, "file") == b"there"
        with refused("file cannot be written"):
            connection.put("file", b"other")
        with refused("new cannot be written"):
            connection.put("deep/new", b"other")
        assert (server.folder / "file").read_bytes() == b"there"


@pytest.mark.parametrize("kind", ["folder", "sftp"])
def test_a_read_only_disk_says_so(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        start_server(kind, tmp_path / "server", monkeypatch) as server,
        small_disk(server.folder, "ro") as disk,
    ):
        with refused(r"cannot be written: .*[Rr]ead-only file system.*Push to where"):
            Connection(server.url).put("file", b"content")
        with refused(r"cannot be written: .*[Rr]ead-only file system"):
            Connection(server.url).put("deep/file", b"content")
        assert not any(disk.iterdir())


@pytest.mark.parametrize("kind", WRITABLE)
def test_a_full_disk_says_so_and_what_is_there_stays_good(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        start_server(kind, tmp_path / "server", monkeypatch) as server,
        small_disk(server.folder) as disk,
    ):
        connection = Connection(server.url)
        connection.put("file", b"before" * 50_000)
        if kind == "s3":  # rclone's server says only that something failed: patience ends
            monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
            with pytest.raises(StoreError):
                connection.put("file", bytes(1_500_000))
        else:
            with refused(r"file cannot be written: no space is left there.*make room", NoSpace):
                connection.put("file", bytes(1_500_000))
        assert fetched(connection, "file") == b"before" * 50_000
        assert [path.name for path in disk.iterdir()] == ["file"]
        connection.put("file", b"after")
        assert fetched(connection, "file") == b"after"


def test_no_bucket_and_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server("s3", tmp_path / "server", monkeypatch) as server:
        Connection(server.url).put("file", b"there")
        missing = Connection("s3://no-such-bucket/hub")
        for work in (
            lambda: missing.put("file", b""),
            lambda: missing.sizes("chunks"),
            lambda: missing.names("chunks"),
            lambda: fetched(missing, "hub.json"),
        ):
            with refused("there is no such bucket.*Check it"):
                work()
        with refused("no such bucket"):
            Connection("s3://Bad_Bucket!/hub").put("file", b"")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-key")
        with refused(r"cannot be written: the server refuses access .*Give credentials"):
            Connection(server.url).put("file", b"")
        with refused(r"cannot be read: the server refuses access .*Give credentials"):
            fetched(Connection(server.url), "file")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
        with refused("the server refuses access"):
            fetched(Connection(server.url), "file")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with refused("no credentials"):
            Connection(server.url).put("file", b"")
        assert isinstance(server, S3Server)
        assert (server.folder / "file").read_bytes() == b"there"


def test_a_host_whose_key_is_unknown_or_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_server("sftp", tmp_path / "server", monkeypatch, knows_host=False) as server:
        assert isinstance(server, SftpServer)
        with refused(r"the host's key is not the one in ~/.ssh/known_hosts.*ssh-keyscan"):
            Connection(server.url).put("file", b"secret")
        server.know((server.ssh / "id_ed25519.pub").read_text())
        with refused("a key that has changed must be asked about"):
            fetched(Connection(server.url), "file")
        assert not any(server.folder.iterdir())
        server.know(server.host_key)
        Connection(server.url).put("file", b"welcome")
        assert (server.folder / "file").read_bytes() == b"welcome"
        (server.ssh / "id_ed25519").unlink()
        with refused(r"cannot be read: the server refuses access .*~/.ssh/config for sftp"):
            fetched(Connection(server.url), "file")


def test_a_folder_in_a_files_place_and_a_file_in_a_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("folder", "sftp"):
        with start_server(kind, tmp_path / kind, monkeypatch) as server:
            connection = Connection(server.url)
            poison(server, "folder/file", b"there")
            with refused("nothing lies in the file's place"):
                connection.put("folder/file/new", b"")
            if kind == "folder":  # sftp says only "Failure" of the other
                with refused("nothing lies in the file's place"):
                    connection.put("folder", b"")
            assert (server.folder / "folder" / "file").read_bytes() == b"there"


def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    connection = Connection(hub)
    connection.put("a", b"there")
    hub.rename(tmp_path / "unmounted")
    with refused("cannot be written .*it vanished.*Check that the hub's folder is there"):
        connection.put("b", b"")
    assert not hub.exists()


class RecordingApi:
    """Takes the place of huggingface_hub's HfApi: no real Hub is reached here."""

    def __init__(self) -> None:
        self.commits: list[dict[str, Any]] = []

    def create_commit(self, **options: Any) -> None:
        self.commits.append(options)


@pytest.mark.parametrize(
    ("address", "revision", "below"),
    [
        ("hf://datasets/team/targets", None, ""),
        ("hf://datasets/team/targets/hub", None, "hub/"),
        ("hf://datasets/team/targets@dev/some/hub", "dev", "some/hub/"),
    ],
)
def test_files_for_hugging_face_are_one_commit(
    address: str, revision: str | None, below: str, tmp_path: Path
) -> None:
    """The operations are huggingface_hub's own; what the Hub makes of them is not tested."""
    hub = pytest.importorskip("huggingface_hub")
    api, file = RecordingApi(), tmp_path / "chunk"
    file.write_bytes(b"chunk")
    folder = HfFolder(address, SimpleNamespace(protocol="hf", async_impl=False), "", api)
    folder.require_writable()
    assert folder.commits_puts
    folder.put_many([])
    assert api.commits == []
    folder.put_many([("chunks/a", file), ("index.json", memoryview(b"{}"))])
    folder.put("hub.json", b"{}")
    first, second = api.commits
    assert (first["repo_id"], first["repo_type"], first["revision"]) == (
        "team/targets",
        "dataset",
        revision,
    )
    assert first["commit_message"] == f"kdcache: {below}chunks/a and 1 more"
    assert second["commit_message"] == f"kdcache: {below}hub.json"
    operations = first["operations"]
    assert all(isinstance(one, hub.CommitOperationAdd) for one in operations)
    assert [one.path_in_repo for one in operations] == [f"{below}chunks/a", f"{below}index.json"]
    contents = []
    for one in operations:
        with one.as_file() as opened:
            contents.append(opened.read())
    assert contents == [b"chunk", b"{}"]


def test_only_dataset_repositories_are_pushed_to() -> None:
    pytest.importorskip("huggingface_hub")
    folder = HfFolder("hf://team/model", SimpleNamespace(protocol="hf", async_impl=False), "")
    with pytest.raises(KdcacheError, match="hf://datasets/OWNER/NAME"):
        folder.require_writable()


def test_a_wrong_patience_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with start_server("http", tmp_path / "server", monkeypatch) as server:
        connection = Connection(server.url)
        poison(server, "file", b"there")
        fetched(connection, "file")
        server.kill()
        monkeypatch.setenv("KDCACHE_PATIENCE", "long")
        with pytest.raises(KdcacheError, match="KDCACHE_PATIENCE must be a number of seconds"):
            fetched(connection, "file")
    assert os.environ["KDCACHE_PATIENCE"] == "long"
