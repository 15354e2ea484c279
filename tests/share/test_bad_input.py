"""What goes wrong around a hub: one clear message each, and both ends still good."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kdcache.share import Hub, push_store
from kdcache.store import verify_store
from tests.servers import WRITABLE, S3Server, Server, SftpServer, start_server
from tests.share.team import Home, client_of
from tests.store.small import SmallStore, alter, block_of, files_of, make_store

CHUNKS = 2 * 3 * 4


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,))
    monkeypatch.setenv("KDCACHE_PATIENCE", "0")


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with start_server(request.param, tmp_path / "server") as server:
        yield server


@pytest.fixture
def home(server: Server, tmp_path: Path) -> Home:
    return client_of(server, tmp_path / "home")


def refuses(home: Home, *arguments: object) -> str:
    """What a command that must fail says: an error in one paragraph, the same on one line."""
    told = " ".join(home.run(*arguments, codes=(1, 2)).split())
    assert told.count(" Error: ") + told.startswith("Error: ") == 1, told
    assert len(told) < 1500
    return told


def both_good(small: SmallStore, hub: Path | None = None) -> None:
    """The store here verifies, and so does what a hub's folder shows."""
    assert verify_store(small.root).ok
    if hub is not None and (hub / "index.json").is_file():
        for fingerprint in Hub(str(hub)).index().stores:
            assert verify_store(Hub(str(hub)).store_address(fingerprint)).ok


on_s3 = pytest.mark.parametrize("server", ["s3"], indirect=True)
on_sftp = pytest.mark.parametrize("server", ["sftp"], indirect=True)
on_nginx = pytest.mark.parametrize("server", ["http"], indirect=True)
on_all_writable = pytest.mark.parametrize("server", WRITABLE, indirect=True)
on_all = pytest.mark.parametrize("server", ["folder", "http", "sftp", "s3"], indirect=True)


@on_s3
def test_no_credentials(small: SmallStore, server: Server, tmp_path: Path) -> None:
    push_store(small.root, str(server.folder))
    told = {**server.environment, "HOME": str(tmp_path)}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        told[name] = ""
    stranger = Home(tmp_path / "home", told)
    for arguments in (("push", small.root, server.url), ("list", server.url),
                      ("pull", server.url, "--store", tmp_path / "D")):  # fmt: skip
        said = refuses(stranger, *arguments)
        assert "no credentials" in said
        assert "Give credentials as its protocol has them" in said
    assert not (tmp_path / "D").exists()
    both_good(small, server.folder)


@on_s3
def test_wrong_credentials(small: SmallStore, server: Server, tmp_path: Path) -> None:
    push_store(small.root, str(server.folder))
    wrong = {**server.environment, "AWS_SECRET_ACCESS_KEY": "another-secret"}
    stranger = Home(tmp_path / "home", wrong)
    for arguments in (("push", small.root, server.url), ("list", server.url),
                      ("verify", server.url)):  # fmt: skip
        assert "the server refuses access" in refuses(stranger, *arguments)
    both_good(small, server.folder)


@on_sftp
def test_a_key_that_the_server_does_not_know(
    small: SmallStore, server: SftpServer, tmp_path: Path
) -> None:
    push_store(small.root, str(server.folder))
    (server.place / "authorized_keys").write_text("")
    stranger = client_of(server, tmp_path / "home")
    for arguments in (("push", small.root, server.url), ("list", server.url)):
        said = refuses(stranger, *arguments)
        assert "the server refuses access" in said
        assert "~/.ssh/config" in said
    both_good(small, server.folder)


@on_sftp
def test_a_host_that_is_not_the_known_one(
    small: SmallStore, server: SftpServer, tmp_path: Path
) -> None:
    server.know((server.ssh / "id_ed25519.pub").read_text())
    said = refuses(client_of(server, tmp_path / "home"), "push", small.root, server.url)
    assert "the host's key is not the one in ~/.ssh/known_hosts" in said
    assert not list(server.folder.iterdir())


@on_s3
def test_a_wrong_bucket(small: SmallStore, server: S3Server, home: Home) -> None:
    for arguments in (("push", small.root, "s3://bukcet"), ("list", "s3://bukcet")):
        said = refuses(home, *arguments)
        assert "there is no such bucket" in said or "there is no hub at s3://bukcet" in said
    both_good(small)


@on_all
def test_no_such_hub_and_no_such_store(
    small: SmallStore, server: Server, home: Home, tmp_path: Path
) -> None:
    said = refuses(home, "list", server.url)
    assert f"there is no hub at {server.url}" in said
    assert f"kdcache push STORE {server.url}" in said
    push_store(small.root, str(server.folder))
    nowhere = f"{server.url}/stores/{'ab' * 8}"
    for arguments in (("pull", nowhere, "--store", tmp_path / "D"), ("verify", nowhere),
                      ("inspect", nowhere)):  # fmt: skip
        said = refuses(home, *arguments)
        assert "ab" * 8 in said
    assert not (tmp_path / "D").exists()
    both_good(small, server.folder)


@on_all
@pytest.mark.parametrize("document", ["hub.json", "index.json"])
def test_a_hub_of_a_newer_format(
    small: SmallStore, server: Server, home: Home, document: str
) -> None:
    push_store(small.root, str(server.folder))
    alter(server.folder / document, lambda known: known.update(hub=2))
    before = files_of(server.folder)
    if document == "index.json":
        arguments: tuple[object, ...] = ("list", server.url)
    elif server.kind == "http":
        pytest.skip("web servers do not take files")
    else:  # a push of what is there already writes nothing; another store's would
        other = make_store(small.root.parent / "other", num_samples=9, mentors=["r8"])
        arguments = ("push", other.root, server.url)
    said = refuses(home, *arguments)
    assert "is of hub format '2'" in said
    assert "use a later version" in said
    assert files_of(server.folder) == before
    both_good(small)


@on_nginx
def test_a_web_server_takes_nothing(small: SmallStore, server: Server, home: Home) -> None:
    said = refuses(home, "push", small.root, server.url)
    assert "can be read only: web servers do not take files" in said
    both_good(small)


def test_a_server_that_may_only_be_read(small: SmallStore, tmp_path: Path) -> None:
    with start_server("sftp", tmp_path / "server", writable=False) as server:
        said = refuses(client_of(server, tmp_path / "home"), "push", small.root, server.url)
        assert "cannot be written" in said
        assert not list(server.folder.iterdir())
    both_good(small)


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of a quarter of a megabyte; skipped where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
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


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """480 kB in 12 chunks."""
    block_of(monkeypatch, 50)
    return make_store(
        tmp_path / "wide", num_samples=200, num_classes=100, views=3, mentors=["r8", "r20"]
    )


@pytest.mark.parametrize("kind", ["folder", "sftp"])
def test_the_hubs_disk_is_full(wide: SmallStore, tmp_path: Path, kind: str) -> None:
    with start_server(kind, tmp_path / "server") as server:
        home = client_of(server, tmp_path / "home")
        with small_disk(server.folder):
            home.run("push", wide.root, server.url, "--mentors", "r8", "--views", "1")
            said = refuses(home, "push", wide.root, server.url)
            assert "No space left on device" in said
            assert "run the same command again" in said
            both_good(wide, server.folder)
            (listed,) = Hub(str(server.folder)).index().stores.values()
            assert [one.chunks for one in listed.targets] == [4]  # the first push's, no more


@on_all
def test_the_disk_here_is_full(
    wide: SmallStore, server: Server, home: Home, tmp_path: Path
) -> None:
    push_store(wide.root, str(server.folder))
    with small_disk(tmp_path / "disk") as disk:
        pull = ("pull", server.url, "--store", disk / "D")
        said = refuses(home, *pull)
        assert "No space left on device" in said or "no space" in said.lower()
        found = verify_store(disk / "D")
        assert found.ok
        assert 0 < found.chunks < 24
        shutil.copytree(disk / "D", tmp_path / "D")
    # With room, the same command goes on.
    home.run("pull", server.url, "--store", tmp_path / "D")
    assert verify_store(tmp_path / "D").chunks == 24
    both_good(wide, server.folder)


@on_all_writable
@pytest.mark.parametrize("year", [1970, 2100])
def test_clocks_do_not_matter(
    small: SmallStore, server: Server, home: Home, tmp_path: Path, year: int
) -> None:
    """Whatever the times of the files are, at the hub and here."""
    home.run("push", small.root, server.url, "--mentors", "r8")
    seconds = datetime(year, 1, 2, tzinfo=UTC).timestamp()

    def set_clock(root: Path) -> None:
        for path in [root, *root.rglob("*")]:
            os.utime(path, (seconds, seconds))

    set_clock(server.folder)
    set_clock(small.root)
    assert "r8" in home.run("list", server.url)
    home.run("push", small.root, server.url)
    assert "to move: 0 chunks" in home.run("push", small.root, server.url)
    home.run("pull", server.url, "--store", tmp_path / "D", "--views", "1")
    set_clock(tmp_path / "D")
    set_clock(server.folder)
    home.run("pull", server.url, "--store", tmp_path / "D")
    assert verify_store(tmp_path / "D").chunks == CHUNKS
    home.run("verify", server.url)
    both_good(small, server.folder)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other views": lambda document: document["manifest"].update(view_seed=99),
    "more samples": lambda document: document["manifest"]["dataset"].update(num_samples=10**12),
    "a name that leads out": lambda document: document["arrays"][0]["mentor"].update(
        name="../../../out"
    ),
    "huge chunks": lambda document: document["arrays"][0]["records"][0].update(bytes=2**50),
    "no arrays": lambda document: document.update(arrays=7),
}


@pytest.mark.parametrize("server", ["folder", "http"], indirect=True)
@pytest.mark.parametrize("told", LIES)
def test_a_document_that_lies(
    small: SmallStore, server: Server, home: Home, tmp_path: Path, told: str
) -> None:
    """Its seal is right: somebody wrote it so on purpose."""
    push_store(small.root, str(server.folder))
    (document,) = server.folder.glob("stores/*/store.json")
    alter(document, LIES[told])
    address = f"{server.url}/stores/{small.open().fingerprint}"
    refuses(home, "pull", address, "--store", tmp_path / "D")
    refuses(home, "inspect", address)
    assert not list(tmp_path.glob("**/out"))
    both_good(small)


@on_all_writable
def test_two_stores_of_the_same_targets_and_other_bytes(
    small: SmallStore, server: Server, home: Home, tmp_path: Path
) -> None:
    """The hub's stay, and it is told; both verify."""
    home.run("push", small.root, server.url)
    other = make_store(
        tmp_path / "other", num_samples=32, num_classes=10, views=3, mentors=["r20", "r8"]
    )  # what r8 said there, r20 says here
    said = " ".join(home.run("push", other.root, server.url).split())
    assert "12 chunks of r8 are there with other bytes" in said
    assert "the hub's stay" in said
    home.run("pull", server.url, "--store", tmp_path / "D")
    said = " ".join(home.run("pull", server.url, "--store", other.root).split())
    assert "other bytes" in said
    both_good(small, server.folder)
    both_good(other)
    assert verify_store(tmp_path / "D").ok


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that this user cannot write to: by its permissions, or mounted so for root."""
    if os.getuid():
        subprocess.run(["chmod", "-R", "a-w", folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        return
    for options in (["--bind", folder], ["-o", "remount,bind,ro"]):
        mounting = ["mount", *map(str, options), str(folder)]
        if subprocess.run(mounting, capture_output=True).returncode:
            pytest.skip("a folder cannot be mounted read-only here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["folder", "sftp"])
def test_a_folder_that_may_only_be_read(small: SmallStore, tmp_path: Path, kind: str) -> None:
    other = make_store(tmp_path / "other", num_samples=9, mentors=["r8"])
    with start_server(kind, tmp_path / "server") as server:
        push_store(small.root, str(server.folder))
        before = files_of(server.folder)
        home = client_of(server, tmp_path / "home")
        with read_only(server.folder):
            said = refuses(home, "push", other.root, server.url)
            assert "cannot be written" in said
            home.run("verify", server.url)
        assert files_of(server.folder) == before
        both_good(small, server.folder)
