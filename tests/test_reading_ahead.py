"""Views replayed ahead in threads: those of the slow way in its order, errors as they were raised,
nothing left working or held by whoever stops early, forks and pickles survived."""

import gc
import os
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import DatasetError
from kdcache.loader import Batch, ReplayLoader
from kdcache.pixels import replayed_ahead
from kdcache.sources import LabelsOnly
from kdcache.views import PoseAffine
from tests.datasets.pose_files import coco_document, person, write_coco

PEOPLE, IMAGES, BATCH, VIEW = 22, 11, 4, 3
Index = NDArray[np.int64]


@pytest.fixture
def people(tmp_path: Path) -> ImageDataset:
    """22 people on 11 photographs, two each."""
    entries = [person(10 + i, 1 + i // 2) for i in range(PEOPLE)]
    write_coco(tmp_path, coco_document(entries, images=IMAGES), images=IMAGES)
    return open_dataset("coco-keypoints", data_dir=str(tmp_path))


def loader_of(people: ImageDataset, **options: Any) -> ReplayLoader:
    source = LabelsOnly(PoseAffine(height=64, width=32), views=[VIEW])
    return ReplayLoader(people, source, BATCH, device="cpu", **options)


def require_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def groups_of(count: int) -> list[Index]:
    return [np.array([number, number + 100]) for number in range(count)]


def workers() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("kdcache-views")}


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    assert not workers()


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(0, 12), ahead=st.integers(0, 5), seed=st.integers(0, 99), taken=st.integers(0)
)
def test_what_is_replayed_comes_in_order_however_long_each_takes(
    count: int, ahead: int, seed: int, taken: int
) -> None:
    """Also where the reader stops before the end: then no further group is begun."""
    seconds = np.random.default_rng(seed).uniform(0, 2e-3, count)
    groups, begun = groups_of(count), []

    def replay(index_G: Index, view: int) -> tuple[list[int], int]:
        begun.append(int(index_G[0]))
        time.sleep(seconds[index_G[0]])
        return index_G.tolist(), view

    taken = min(taken, count)
    with replayed_ahead(replay, VIEW, groups, ahead=ahead) as replayed:
        found = [next(replayed) for _ in range(taken)]
        if taken == count:
            assert next(replayed, None) is None
    assert found == [(index_G.tolist(), VIEW) for index_G in groups[:taken]]
    assert sorted(begun) == list(range(len(begun)))
    assert taken <= len(begun) <= taken + ahead
    time.sleep(3e-3)
    assert len(begun) <= taken + ahead


def test_two_groups_are_replayed_at_once_and_no_more() -> None:
    together = threading.Barrier(2, timeout=10)
    at_work: list[int] = []
    most = 0

    def replay(index_G: Index, view: int) -> int:
        nonlocal most
        at_work.append(1)
        most = max(most, len(at_work))
        together.wait()  # passes only where two are here
        at_work.pop()
        return int(index_G[0])

    with replayed_ahead(replay, 0, groups_of(8), ahead=2) as replayed:
        assert list(replayed) == list(range(8))
    assert most <= 3  # one may be done, and its thread begin the next one, before it is popped


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_an_error_is_raised_as_it_is_where_its_group_would_have_come(ahead: int) -> None:
    error = DatasetError("the photograph is broken")

    def replay(index_G: Index, view: int) -> int:
        if index_G[0] == 3:
            raise error
        return int(index_G[0])

    found: list[int] = []
    with (
        pytest.raises(DatasetError) as raised,
        replayed_ahead(replay, 0, groups_of(9), ahead=ahead) as replayed,
    ):
        found.extend(replayed)
    assert raised.value is error
    assert found == [0, 1, 2]


def test_an_error_of_a_group_that_nobody_reached_is_nobodys() -> None:
    def replay(index_G: Index, view: int) -> int:
        if index_G[0] == 1:
            raise DatasetError("the photograph is broken")
        return int(index_G[0])

    with replayed_ahead(replay, 0, groups_of(9), ahead=2) as replayed:
        assert next(replayed) == 0


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_was_replayed_for_nobody_is_let_go(ahead: int) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def replay(index_G: Index, view: int) -> torch.Tensor:
        tensor = torch.zeros(1000)
        made.append(weakref.ref(tensor))
        return tensor

    with replayed_ahead(replay, 0, groups_of(9), ahead=ahead) as replayed:
        next(replayed)
        most = sum(ref() is not None for ref in made)
    gc.collect()
    assert most <= ahead + 1
    assert all(ref() is None for ref in made)


def test_a_loader_gives_the_batches_of_one_that_reads_when_asked(people: ImageDataset) -> None:
    ahead = list(loader_of(people))
    people.reads_ahead = 0
    require_same(ahead, list(loader_of(people)))
    assert len(ahead) == PEOPLE // BATCH


@pytest.mark.parametrize("leave", ["close", "forget", "error"])
def test_an_epoch_that_is_left_ends_its_threads_and_can_be_gone_on_with(
    people: ImageDataset, leave: str
) -> None:
    expected = list(loader_of(people))
    loader = loader_of(people)
    batches = iter(loader)
    first = [next(batches), next(batches)]
    assert workers()
    if leave == "close":
        batches.close()  # type: ignore[attr-defined]
    elif leave == "error":
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    del batches
    assert not workers()
    loader.load_state_dict(loader.state_dict())
    require_same([*first, *loader], expected)


def test_a_photograph_broken_in_mid_epoch_is_named(people: ImageDataset) -> None:
    """By the loader, in the step that needs it; the steps before it were served."""
    loader = loader_of(people)
    order = loader.epoch_order(0)
    batch = 3
    reader: Any = people._fetch
    broken = reader.folder / reader.people.files[order[batch * BATCH]]
    broken.write_bytes(broken.read_bytes()[:100])
    first = 1 + min(np.flatnonzero([reader.people.files[i] == broken.name for i in order]) // BATCH)
    served: list[Batch] = []
    with pytest.raises(DatasetError, match=f"{broken.name}: annotation .* cannot be read"):
        served.extend(loader)
    assert len(served) == first - 1


def test_a_pose_dataset_and_its_loader_can_be_sent_to_another_process(
    people: ImageDataset,
) -> None:
    """In the middle of an epoch, too; photographs that were decoded are not sent."""
    expected = list(loader_of(people))
    loader = loader_of(people)
    batches = iter(loader)
    next(batches)
    sent = pickle.dumps(loader)
    assert len(sent) < people.images(people.index_N[:1]).photos[0].nbytes * IMAGES
    batches.close()  # type: ignore[attr-defined]
    copied: ReplayLoader = pickle.loads(sent)
    require_same(list(copied), expected)
    assert copied.dataset.identity() == people.identity()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["midway", "while a photograph is decoded"])
def test_a_forked_child_reads_on_and_anew(
    people: ImageDataset, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    expected = list(loader_of(people))
    people = pickle.loads(pickle.dumps(people))  # without the photographs
    loader = loader_of(people)
    batches = iter(loader)
    found = [next(batches)]
    reader: Any = people._fetch
    if where != "midway":  # the lock of the photographs is held by a thread the child does not have
        holding, done = threading.Event(), threading.Event()

        def hold() -> None:
            with reader._lock:
                holding.set()
                done.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        assert holding.wait(60)
    child = os.fork()
    if child == 0:
        try:
            require_same([*found, *batches], expected)
            require_same(list(loader_of(people)), expected)
            os._exit(0)
        except BaseException:
            os._exit(2)
    status = exit_status(child)
    if where != "midway":
        done.set()
        thread.join()
    assert status == 0
    require_same([*found, *batches], expected)


def exit_status(child: int, seconds: float = 60) -> int | None:
    """None where the child hangs; it is ended then."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None
