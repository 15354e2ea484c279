"""Pushing to hubs and pulling from them, beside what the same client libraries move alone.

Real servers on loopback, as the tests start them: a folder, OpenSSH's sftp, rclone's S3, nginx.

The other side does the least that moving a store takes: a new client of the same library (fsspec's
s3fs, sshfs and http, or a plain copy for a folder), as many threads as we have connections, each of
which takes one chunk's file after another, computes its SHA-256 and moves it. It keeps no records,
asks for nothing that is there, waits for no disk (but where it says fsync), and checks nothing.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Budget, interleave, ratio, require_same, spread, timed
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.copying import CopyJob
from kdcache.remote import CONNECTIONS
from kdcache.share import Hub, PushJob
from kdcache.store import TargetStore, open_store
from kdcache.store.hub_layout import chunk_name

MENTORS, VIEWS, BLOCKS = 4, 4, 7  # 112 chunks of 1.4 MB
PUSHED = ("folder", "sftp", "s3")
PULLED = ("folder", "http", "sftp", "s3")
BUDGET = Budget(limit=0.8)
STORES = 100
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A store's chunks: where each lies here, and what it is called at a hub."""

    store: TargetStore
    files: tuple[tuple[Path, str], ...]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path, _ in self.files)

    def __str__(self) -> str:
        count = len(self.files)
        return f"{count} chunks, {self.bytes / 1e6:.1f} MB, {CONNECTIONS} connections"


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes."""
    try:
        import pytest

        import tests.servers  # noqa: F401
    except ImportError as error:
        yield Skipped(what="sharing stores", why=f"the tests' servers are missing ({error})")
        return
    moved = _make_store(settings)
    for kind in PULLED:
        try:
            with _serving(kind, settings.folder / kind) as server:
                if kind in PUSHED:
                    yield from _pushing(settings, moved, server)
                else:
                    PushJob(moved.store, str(server.folder)).run()
                yield from _pulling(settings, moved, server)
        except (pytest.skip.Exception, ImportError) as error:
            yield Skipped(what=f"pushing to and pulling from {kind}", why=str(error))
    yield from _listing(settings)


def _make_store(settings: Settings) -> Moved:
    store = synthetic.make_store(
        settings.folder / "store",
        settings.size(full=50_000, quick=2_000),
        mentors=settings.size(full=MENTORS, quick=2),
        views=settings.size(full=VIEWS, quick=2),
        blocks=settings.size(full=BLOCKS, quick=3),
        same_chunks=False,
        rolled=True,
    )
    files = [
        (stored.array.chunk(*key), chunk_name(record))
        for stored in store.sound_mentors
        for key, record in sorted(stored.commits.items())
    ]
    return Moved(store=store, files=tuple(files))


def _pushing(settings: Settings, moved: Moved, server: Any) -> Iterator[Row]:
    def fresh(work: Work) -> float:
        for entry in server.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return timed(work)()

    def ours() -> None:
        require_same(PushJob(moved.store, server.url).run().ok, "whether all was moved")

    sides: dict[str, Work] = {"ours": ours, "theirs": lambda: _push_bare(moved, server)}
    if server.kind == "folder":
        sides["fsync"] = lambda: _push_bare(moved, server, waits=True)
    seconds = interleave(
        {name: partial(fresh, work) for name, work in sides.items()}, settings.repeats
    )
    yield from _rows(f"pushing to {_CALLED[server.kind]}", moved, seconds)
    fresh(ours)  # for pulling


def _pulling(settings: Settings, moved: Moved, server: Any) -> Iterator[Row]:
    to = settings.folder / "pulled"
    address = Hub(server.url).store_address(moved.store.fingerprint)

    def fresh(work: Work) -> float:
        shutil.rmtree(to, ignore_errors=True)
        return timed(work)()

    def ours() -> None:
        require_same(CopyJob(address, to).run().ok, "whether all was moved")

    sides: dict[str, Work] = {
        "ours": ours,
        "theirs": lambda: _pull_bare(moved, server, to),
        "fsync": lambda: _pull_bare(moved, server, to, waits=True),
    }
    seconds = interleave(
        {name: partial(fresh, work) for name, work in sides.items()}, settings.repeats
    )
    shutil.rmtree(to, ignore_errors=True)
    yield from _rows(f"pulling from {_CALLED[server.kind]}", moved, seconds)


_CALLED = {"folder": "a folder", "sftp": "sftp", "s3": "S3", "http": "nginx"}
_LIBRARIES = {"folder": "a copy", "sftp": "sshfs", "s3": "s3fs", "http": "fsspec's http"}


def _rows(what: str, moved: Moved, seconds: dict[str, list[float]]) -> Iterator[Row]:
    rates = {name: f"{moved.bytes / min(times) / 1e6:,.0f} MB/s" for name, times in seconds.items()}
    yield Row(
        what=f"{what} / the same library's bytes and SHA-256",
        measured=ratio(seconds["theirs"], seconds["ours"]),
        budget=BUDGET,
        detail=f"best {rates['ours']} against {rates['theirs']}; {moved}; ours waits for the disk",
    )
    if "fsync" in seconds:
        yield Row(
            what=f"{what} / the same, each file fsynced",
            measured=ratio(seconds["fsync"], seconds["ours"]),
            detail=f"best {rates['ours']} against {rates['fsync']}; ours commits each chunk",
        )


def _push_bare(moved: Moved, server: Any, *, waits: bool = False) -> None:
    client, root = _client(server)

    def move(file: tuple[Path, str]) -> str:
        path, name = file
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if server.kind == "folder":
            _write(server.folder / name, content, waits)
        else:
            client.pipe_file(f"{root}/{name}", content)
        return digest

    if server.kind == "sftp":  # no library makes folders by itself there
        for folder in {name.rpartition("/")[0] for _, name in moved.files}:
            client.makedirs(f"{root}/{folder}", exist_ok=True)
    _in_threads(move, moved.files)


def _pull_bare(moved: Moved, server: Any, to: Path, *, waits: bool = False) -> None:
    client, root = _client(server)

    def move(file: tuple[Path, str]) -> str:
        _, name = file
        if server.kind == "folder":
            content = (server.folder / name).read_bytes()
        else:
            content = client.cat_file(f"{root}/{name}")
        _write(to / name, content, waits)
        return hashlib.sha256(content).hexdigest()

    _in_threads(move, moved.files)


def _in_threads(move: Callable[[tuple[Path, str]], str], files: Sequence[tuple[Path, str]]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        digests = list(pool.map(move, files))
    require_same(len(set(digests)) == len(files), "what was moved")


def _client(server: Any) -> tuple[Any, str]:
    """A new one, and what stands before the names of files."""
    import fsspec

    if server.kind == "folder":
        return None, ""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if server.kind == "sftp":
        options["known_hosts"] = str(server.ssh / "known_hosts")
        options["client_keys"] = [str(server.ssh / "id_ed25519")]
    client, root = fsspec.url_to_fs(server.url, **options)
    return client, str(root).rstrip("/")


def _write(path: Path, content: bytes, waits: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        file.write(content)
        if waits:
            os.fsync(file.fileno())


def _listing(settings: Settings) -> Iterator[Row | Skipped]:
    """A hub of many small stores, behind nginx."""
    import pytest

    count = settings.size(full=STORES, quick=5)
    try:
        with _serving("http", settings.folder / "many") as server:
            for number in range(count):
                root = settings.folder / "small" / str(number)
                store = synthetic.make_store(
                    root, 8 + number, mentors=MENTORS, views=2, blocks=1, same_chunks=True
                )
                PushJob(store, str(server.folder)).run()
            server.forget_requests()
            require_same(len(Hub(server.url).index().stores) == count, "the number of stores")
            listing = len(server.requests())
            address = Hub(server.url).store_address(store.fingerprint)
            open_store(address, mirrors=settings.folder / "mirrors")
            opening = len(server.requests()) - listing

            def command() -> None:
                done = subprocess.run(
                    [sys.executable, "-m", "kdcache", "list", "--json", server.url],
                    check=True,
                    capture_output=True,
                )
                require_same(len(json.loads(done.stdout)["stores"]) == count, "what is listed")

            seconds = interleave(
                {
                    "index": timed(lambda: Hub(server.url).index()),
                    "command": timed(command),
                    "open": timed(lambda: open_store(address, mirrors=settings.folder / "mirrors")),
                },
                settings.repeats,
            )
            size = (server.folder / "index.json").stat().st_size
    except (pytest.skip.Exception, ImportError) as error:
        yield Skipped(what="listing a hub", why=str(error))
        return
    within = Budget(limit=1, higher_is_better=False)
    yield Row(
        what=f"listing a hub of {count} stores through nginx",
        measured=spread(seconds["index"]),
        budget=within,
        unit=" s",
        detail=f"{listing} request, {size / 1e3:,.0f} kB",
    )
    yield Row(
        what="the same by `kdcache list`, the start of Python included",
        measured=spread(seconds["command"]),
        budget=within,
        unit=" s",
    )
    yield Row(
        what="requests for opening a store at a hub",
        measured=spread([float(opening)]),
        budget=Budget(limit=2, higher_is_better=False),
        detail=f"nginx counted them; best {milliseconds(min(seconds['open']))}",
    )


@contextmanager
def _serving(kind: str, place: Path) -> Iterator[Any]:
    """One of the tests' servers; its clients' environment is set meanwhile."""
    import pytest

    from tests.servers import start_server

    with pytest.MonkeyPatch.context() as patched, start_server(kind, place, patched) as server:
        yield server
