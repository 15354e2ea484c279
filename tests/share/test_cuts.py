"""Servers and clients killed in the middle of a transfer; the same command then goes on.

Whatever was killed when: both ends verify, and all that moved is at most 1.2 times the store.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdcache.copying import CopyJob
from kdcache.errors import KdcacheError
from kdcache.share import Hub, PushJob, push_store
from kdcache.store import TargetStore, verify_store
from tests.servers import KINDS, WRITABLE, Server, start_server
from tests.share.team import client_of
from tests.store.small import block_of, make_store

MOST = 1.2
RATE = 12e6  # bytes a second: slow enough that chunks are on their way when they are cut
Transfer = Callable[[Callable[[int, int], None]], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TargetStore:
    """48 chunks of 100 kB."""
    with pytest.MonkeyPatch.context() as patched:
        block_of(patched, 500)
        patched.setattr("os.fsync", lambda descriptor: None)
        return make_store(
            tmp_path_factory.mktemp("cut") / "S",
            num_samples=4000,
            num_classes=100,
            views=3,
            mentors=["r8", "r20"],
        ).open()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands give up soon, so that they are to be repeated."""
    monkeypatch.setenv("KDCACHE_PATIENCE", "0")
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.02, 0.02))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look again soon, for long."""
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.02, 0.05, *[0.1] * 20))
    monkeypatch.setattr("kdcache.remote.patience.LONGEST_WAIT", 0.1)


def size_of(store: TargetStore) -> int:
    return sum(record.bytes for one in store.sound_mentors for record in one.commits.values())


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    options = {} if request.param == "folder" else {"rate": RATE}
    with start_server(request.param, tmp_path / "server", monkeypatch, **options) as server:
        yield server


def empty(server: Server) -> None:
    """The next push begins a hub."""
    for path in server.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def push_to(store: TargetStore, server: Server) -> Transfer:
    def push(progress: Callable[[int, int], None]) -> None:
        assert PushJob(store.root, server.url).run(progress=progress).ok

    return push


def pull_into(root: Path, server: Server, store: TargetStore) -> Transfer:
    def pull(progress: Callable[[int, int], None]) -> None:
        address = Hub(server.url).store_address(store.fingerprint)
        result = CopyJob(address, root).run(progress=progress)
        assert result.ok, result.damaged

    return pull


class Cutter:
    """Runs transfers, kills the server in the middle, and counts what moved in all."""

    def __init__(self, server: Server, num_bytes: int) -> None:
        self.server, self.num_bytes = server, num_bytes
        self._counted = 0  # where there is no proxy: what transfers say they moved
        if server.proxy is not None:
            server.proxy.forget()
            server.proxy.rate = RATE

    @property
    def moved(self) -> int:
        return self._counted if self.server.proxy is None else self.server.proxy.moved

    @property
    def ratio(self) -> float:
        return self.moved / self.num_bytes

    def run(self, transfer: Transfer) -> None:
        before = self._counted

        def progress(done: int, total: int) -> None:
            self._counted = before + done

        transfer(progress)

    def run_and_kill(self, transfer: Transfer, moments: list[float], back_after: float) -> str:
        """Kills it when so much of the store has moved, and starts it again; what the transfer
        failed with, if it did."""
        failed: list[BaseException] = []

        def body() -> None:
            try:
                self.run(transfer)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        for moment in moments:
            while thread.is_alive() and self.ratio < moment:
                time.sleep(0.0005)
            self.server.kill()
            thread.join(back_after)
            self.server.start()
        thread.join(60)
        assert not thread.is_alive()
        for error in failed:  # an error is one that is for the person at the terminal
            assert isinstance(error, (KdcacheError, AssertionError)), error
        return " ".join(map(str, failed))


def require_sound(store: TargetStore, server: Server, pulled: Path | None) -> None:
    """Both ends verify, and have everything. What this reads is not slowed."""
    if server.proxy is not None:
        server.proxy.rate = None
    places = [str(store.root), Hub(server.url).store_address(store.fingerprint)]
    for place in [*places, *([] if pulled is None else [str(pulled)])]:
        found = verify_store(place)
        assert found.ok, found
        assert found.chunks == 48


# A few moments here, twenty in the campaign.
FEW = [pytest.param([n], id=f"seed{n}") for n in range(2)]
MANY = [pytest.param(range(2, 22), id="twenty", marks=pytest.mark.slow)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seeds", [*FEW, *MANY])
@pytest.mark.parametrize("proxied", WRITABLE, indirect=True)
def test_the_server_is_killed_in_a_push(
    store: TargetStore, proxied: Server, seeds: list[int]
) -> None:
    ratios = []
    for seed in seeds:
        empty(proxied)
        cutter = Cutter(proxied, size_of(store))
        moment = random.Random(seed).uniform(0, 1.05)
        push = push_to(store, proxied)
        cutter.run_and_kill(push, [moment], back_after=10)
        cutter.run(push)
        ratios.append(cutter.ratio)
        require_sound(store, proxied, None)
    print(f"{proxied.kind}: pushes cut once moved {min(ratios):.3f} to {max(ratios):.3f}")
    assert max(ratios) <= MOST


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seeds", [*FEW, *MANY])
@pytest.mark.parametrize("proxied", KINDS, indirect=True)
def test_the_server_is_killed_in_a_pull(
    store: TargetStore, proxied: Server, seeds: list[int], tmp_path: Path
) -> None:
    push_store(store.root, str(proxied.folder))
    ratios = []
    for seed in seeds:
        cutter = Cutter(proxied, size_of(store))
        moment = random.Random(seed).uniform(0, 1.05)
        pull = pull_into(tmp_path / f"D{seed}", proxied, store)
        cutter.run_and_kill(pull, [moment], back_after=10)
        cutter.run(pull)
        ratios.append(cutter.ratio)
        require_sound(store, proxied, tmp_path / f"D{seed}")
    print(f"{proxied.kind}: pulls cut once moved {min(ratios):.3f} to {max(ratios):.3f}")
    assert max(ratios) <= MOST


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("proxied", ["http", "sftp", "s3"], indirect=True)
def test_the_server_is_killed_twenty_times_in_one_transfer(
    store: TargetStore, proxied: Server, way: str, tmp_path: Path
) -> None:
    """The command waits each time and goes on by itself."""
    if (way, proxied.kind) == ("push", "http"):
        pytest.skip("web servers do not take files")
    pulled = None if way == "push" else tmp_path / "D"
    if pulled is None:
        transfer = push_to(store, proxied)
    else:
        push_store(store.root, str(proxied.folder))
        transfer = pull_into(pulled, proxied, store)
    cutter = Cutter(proxied, size_of(store))
    order = random.Random(0)
    moments = sorted(order.uniform(0, 1) for _ in range(20))
    assert not cutter.run_and_kill(transfer, moments, back_after=0.1)
    ratio = cutter.ratio
    print(f"{proxied.kind}: a {way} whose server was killed 20 times moved {ratio:.3f}")
    require_sound(store, proxied, pulled)
    assert ratio <= MOST + 20 * (MOST - 1)


@pytest.mark.parametrize(
    "seeds", [[0], pytest.param(range(1, 6), id="five", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("proxied", "way"),
    [
        ("s3", "push"),
        ("http", "pull"),
        pytest.param("sftp", "push", marks=pytest.mark.slow),
        pytest.param("sftp", "pull", marks=pytest.mark.slow),
        pytest.param("s3", "pull", marks=pytest.mark.slow),
    ],
    indirect=["proxied"],
)
def test_the_command_is_killed(
    store: TargetStore, proxied: Server, way: str, seeds: list[int], tmp_path: Path
) -> None:
    """SIGKILL to the one who pushes or pulls; the same command goes on."""
    person = client_of(proxied, tmp_path / "home")
    address = Hub(proxied.url).store_address(store.fingerprint)
    for seed in seeds:
        empty(proxied)
        pulled = None if way == "push" else tmp_path / f"D{seed}"
        if pulled is None:
            command: tuple[object, ...] = ("push", store.root, proxied.url)
        else:
            push_store(store.root, str(proxied.folder))
            command = ("pull", address, "--store", pulled)
        cutter = Cutter(proxied, size_of(store))
        moment = random.Random(seed).uniform(0.02, 0.9)
        process = person.start(*command)
        while cutter.ratio < moment:
            assert process.poll() is None, process.communicate()
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        person.run(*command)
        ratio = cutter.ratio
        print(f"{proxied.kind}: a {way} killed at {moment:.2f} moved {ratio:.3f}")
        require_sound(store, proxied, pulled)
        assert ratio <= MOST
