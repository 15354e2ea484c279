"""Full disks, folders that may only be read, that vanish, and clocks that jump."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks.torture import processes
from benchmarks.torture.crashes import record
from benchmarks.torture.faults import FullDisk, Operation, ShortWrites, Vanishing, watched
from benchmarks.torture.judging import judge, look, unlike_undisturbed
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import Truth, World, clear, copy, scratch, undisturbed
from kdcache import durable, open_store
from kdcache.cli import main
from kdcache.errors import KdcacheError, RunFailed, StoreError
from tests.test_precompute import snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="disturbs Linux's own calls")
NOBODY = 65534


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with scratch() as path:
        yield path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return undisturbed(World(), clear(folder / "truth" / "store"))


@pytest.fixture(scope="module")
def operations(folder: Path, truth: Truth) -> list[Operation]:
    """Of making the store."""
    return record(truth.world, clear(folder / "work" / "store"))


def require_healed(root: Path, truth: Truth, *, finished: bool = False) -> None:
    tally = Tally(what="")
    judge(root, truth, tally, "", finished=finished)
    assert tally.ok, tally.problems


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if durable.is_aside(path.name)]


def full_disk_at(moment: int, folder: Path, truth: Truth) -> None:
    """One clear error; nothing that was committed is lost; with room again it is finished."""
    work = clear(folder / "work" / "store")
    refused = pytest.raises(RunFailed, match="cannot take more: No space left")
    with watched(work.parent, FullDisk(moment)), refused as caught:
        truth.world.precompute(work)
    assert caught.value.exit_code == 1
    assert "free some space and run the same command again" in str(caught.value)
    assert not leftovers(work)
    looked = look(work, truth)
    assert not looked.lost
    assert not looked.wrong
    require_healed(work, truth)


def writes_of_chunks(operations: list[Operation]) -> range:
    """The moments before the indices are written, which are only an aid."""
    return range(next(n for n, o in enumerate(operations) if ".commits.json." in o.path.name))


def test_a_full_disk(folder: Path, truth: Truth, operations: list[Operation]) -> None:
    for moment in writes_of_chunks(operations)[::20]:
        full_disk_at(moment, folder, truth)


@pytest.mark.slow
def test_a_disk_full_at_any_moment(folder: Path, truth: Truth, operations: list[Operation]) -> None:
    for moment in writes_of_chunks(operations):
        full_disk_at(moment, folder, truth)


def test_a_disk_too_full_for_the_indices_alone(
    folder: Path, truth: Truth, operations: list[Operation]
) -> None:
    work = clear(folder / "work" / "store")
    with watched(work.parent, FullDisk(len(writes_of_chunks(operations)))):
        truth.world.precompute(work)
    assert not list(work.rglob("commits.json"))
    assert not unlike_undisturbed(work, truth)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"mounting a file system needs {error.filename}")
    if done.returncode != 0:
        pytest.skip(f"mounting a file system is not allowed here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_really_full_disk(
    tmp_path: Path, small_disk: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    checkpoint = digits_checkpoint("r8")

    def precompute(store: Path) -> Result:
        command = ["precompute", "--mentors", "r8", "--dataset", "digits", "--samples", "100"]
        command += ["--views", "100", "--checkpoint", f"r8={checkpoint}", "--store", str(store)]
        return CliRunner().invoke(main, command)

    assert precompute(tmp_path / "undisturbed").exit_code == 0
    failed = precompute(small_disk / "S")
    assert failed.exit_code == 1
    assert "cannot take more: No space left on device" in failed.output
    assert "free some space and run the same command again" in failed.output
    assert "Traceback" not in failed.output
    assert not leftovers(small_disk)
    before = snapshot(small_disk / "S")
    whole = snapshot(tmp_path / "undisturbed")
    assert 10 < len(before) < len(whole)
    assert before.items() <= whole.items()
    held = open_store(small_disk / "S")
    index_N = held.index_N
    for view in held.usable_views(["r8"]):
        held.targets(view, index_N)
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    assert precompute(small_disk / "S").exit_code == 0
    assert snapshot(small_disk / "S") == whole


def test_writes_that_take_a_few_bytes_at_once(folder: Path, truth: Truth) -> None:
    work = clear(folder / "work" / "store")
    with watched(work.parent, ShortWrites()):
        truth.world.precompute(work)
    require_healed(work, truth, finished=True)


def test_a_folder_that_may_only_be_read(truth: Truth, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = copy(truth.root, Path(name) / "stores" / "store")
        everything = [Path(name), root.parent, root, *root.rglob("*")]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            report = tmp_path / "report"
            child = processes.start(partial(_as_a_reader, root, truth), report)
            assert processes.wait(child) == 0, report.read_text()
        finally:
            for path in everything:
                path.chmod(0o755)
        assert not unlike_undisturbed(root, truth)


def _as_a_reader(root: Path, truth: Truth) -> None:
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    with pytest.raises(PermissionError):
        (root / "new").write_text("")
    looked = look(root, truth, finished=True)
    assert not looked.lost
    assert not looked.wrong
    truth.world.precompute(root)
    for views, mentors in ((3, None), (2, ["another"])):
        with pytest.raises(StoreError, match=r"cannot write to the store .*Permission denied"):
            truth.world.precompute(root, views=views, mentors=mentors)
    assert not look(root, truth, finished=True).lost


def vanishing_at(moment: int, folder: Path, truth: Truth, operations: list[Operation]) -> None:
    """One clear error, and nothing in its place."""
    work = clear(folder / "work" / "store")
    refused = pytest.raises(StoreError, match=r"vanished|does not exist")
    with watched(work.parent, Vanishing(moment, work)), refused as caught:
        truth.world.precompute(work)
    assert str(work) in str(caught.value)
    assert not work.exists(), f"{operations[moment].within(work)}: {list(work.rglob('*'))}"


def test_a_folder_that_vanishes(folder: Path, truth: Truth, operations: list[Operation]) -> None:
    for moment in range(1, len(operations), 12):  # before 0 it is not there
        vanishing_at(moment, folder, truth, operations)


@pytest.mark.slow
def test_a_folder_that_vanishes_at_any_moment(
    folder: Path, truth: Truth, operations: list[Operation]
) -> None:
    for moment in range(1, len(operations)):
        vanishing_at(moment, folder, truth, operations)


def test_clocks_that_jump(folder: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    for name in ("time", "monotonic", "perf_counter"):
        clock = getattr(time, name)
        monkeypatch.setattr(time, name, lambda clock=clock: clock() + chance.uniform(-9e4, 9e4))
    work = clear(folder / "work" / "store")
    truth.world.precompute(work, views=1)
    truth.world.precompute(work)
    require_healed(work, truth, finished=True)


@pytest.mark.slow
def test_sigterm_at_random_moments(
    tmp_path: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    chance = random.Random(0)
    checkpoint = digits_checkpoint("r8")

    def start(store: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "kdcache", "precompute", "--mentors", "r8"]
        command += ["--dataset", "digits", "--samples", "400", "--views", "20"]
        command += ["--checkpoint", f"r8={checkpoint}", "--store", str(store)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def finish(store: Path) -> None:
        process = start(store)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output

    started = time.monotonic()
    finish(tmp_path / "undisturbed")
    seconds = time.monotonic() - started
    whole = snapshot(tmp_path / "undisturbed")
    codes = []
    for _ in range(10):
        shutil.rmtree(tmp_path / "S", ignore_errors=True)
        process = start(tmp_path / "S")
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output
        codes.append(process.returncode)
        before = snapshot(tmp_path / "S")
        assert before.items() <= whole.items()
        try:
            open_store(tmp_path / "S")
        except KdcacheError:
            assert not before
        finish(tmp_path / "S")
        assert snapshot(tmp_path / "S") == whole
        assert not leftovers(tmp_path / "S")
    # Before our handler is in place, the interpreter itself is ended by the signal.
    assert set(codes) <= {0, 143, -signal.SIGTERM}, codes
