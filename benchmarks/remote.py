"""Reading a store over HTTP on loopback, beside what the same client library moves."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Budget, interleave, ratio, require_same, timed
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.remote import CONNECTIONS
from kdcache.resident import ResidentView, checked_files
from kdcache.store import TargetStore, open_store

MENTORS = 4
VIEWS = 2
CPU = torch.device("cpu")


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes; the server is a process of its own."""
    samples = settings.size(full=50_000, quick=2_000)
    blocks = settings.size(full=7, quick=2)
    local = synthetic.make_store(
        settings.folder / "served" / "store",
        samples,
        mentors=MENTORS,
        views=VIEWS,
        blocks=blocks,
        same_chunks=False,
    )
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        yield Skipped(what="loading views over HTTP", why="aiohttp is not installed")
        return
    with _serving(local.root.parent) as address:
        url = f"{address}/{local.root.name}"
        mirrors = settings.folder / "mirrors"
        store = open_store(url, mirrors=mirrors)
        yield from _loading(settings, store, local)
        yield _opening(settings, url, mirrors, local)


def _loading(settings: Settings, store: TargetStore, local: TargetStore) -> Iterator[Row]:
    import fsspec

    targets = store.sound_mentors
    blocks = range(store.manifest.num_blocks)
    chunks = [(one, view, block) for view in range(VIEWS) for one in targets for block in blocks]
    urls = [store.shown(one.array.chunk(view, block)) for one, view, block in chunks]
    client = fsspec.filesystem("http")
    view = ResidentView(store, store.mentors, CPU)
    from_path = ResidentView(local, local.mentors, CPU)

    def load() -> None:
        store.expect(chunks)
        for number in range(VIEWS):
            view.load(number)

    def load_fresh() -> float:
        for folder in store.root.glob("mentors/*/logits/c"):
            shutil.rmtree(folder)
        return timed(load)()

    def fetch_bytes() -> int:
        found = client.cat(urls, batch_size=CONNECTIONS)
        return sum(len(content) for content in found.values())

    load_fresh()
    same = torch.equal(view[store.index_N], from_path.load(VIEWS - 1)[store.index_N])
    require_same(same, "the loaded rows")
    size = sum(one.commits[number, block].bytes + 4 for one, number, block in chunks)
    require_same(fetch_bytes() == size, "the fetched bytes")

    def checking(work: Callable[[], object]) -> None:
        checked_files.clear()  # else the older files of the path would be taken on trust
        work()

    seconds = interleave(
        {
            "url": load_fresh,
            "bytes": timed(fetch_bytes),
            "again": timed(lambda: checking(load)),
            "path": timed(
                lambda: checking(lambda: [from_path.load(number) for number in range(VIEWS)])
            ),
        },
        settings.repeats,
    )
    rates = {name: f"{size / min(times) / 1e6:,.0f} MB/s" for name, times in seconds.items()}
    yield Row(
        what="views over loopback HTTP / their bytes by the same client library",
        measured=ratio(seconds["bytes"], seconds["url"]),
        budget=Budget(limit=0.8),
        detail=(
            f"best {rates['url']} against {rates['bytes']}; {size / 1e6:.1f} MB in {len(urls)} "
            f"files, {CONNECTIONS} connections; ours writes them to the mirror, and checks them "
            "as they arrive and as they are read; theirs keeps them in memory"
        ),
    )
    yield Row(
        what="views at a URL, already in the mirror / from the path itself",
        measured=ratio(seconds["path"], seconds["again"]),
        detail=(
            f"best {rates['again']} against {rates['path']}; no request is made, every chunk is "
            "checked"
        ),
    )


def _opening(settings: Settings, url: str, mirrors: Path, local: TargetStore) -> Row:

    def checking(work: Callable[[], object]) -> None:
        checked_files.clear()  # else the older files of the path would be taken on trust
        work()

    seconds = interleave(
        {
            "url": timed(partial(open_store, url, mirrors=mirrors)),
            "path": timed(partial(open_store, local.root)),
        },
        settings.repeats,
    )
    best = {name: milliseconds(min(times)) for name, times in seconds.items()}
    return Row(
        what="opening a store at a URL / at its path",
        measured=ratio(seconds["url"], seconds["path"]),
        detail=(
            f"best {best['url']} against {best['path']}; {2 + 5 * MENTORS} requests in 4 rounds, "
            f"{MENTORS} mentors, {sum(len(one.commits) for one in local.sound_mentors)} commits"
        ),
    )


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """Python's own HTTP server, which keeps connections open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    command += ["--protocol", "HTTP/1.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
