"""What several pushers make visible, in whatever order their reads and writes come."""

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import StoreError
from kdcache.share import Hub
from kdcache.store import CommitRecord, TargetStore, open_store
from kdcache.store.gathered import GatheredArray, GatheredStore, gather_array
from kdcache.store.merging import merge_gathered
from tests.store.small import block_of, make_store

VIEWS, BLOCKS, MENTORS = 2, 2, ("r8", "r20")
KEYS = [(name, view, block) for name in MENTORS for view in range(VIEWS) for block in range(BLOCKS)]


@contextmanager
def whole_store() -> Iterator[tuple[Path, TargetStore]]:
    """A folder, and a small store in it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDCACHE_HOME", f"{folder}/home")
        block_of(monkeypatch, 4)
        small = make_store(Path(folder) / "store", num_samples=8, views=VIEWS, mentors=MENTORS)
        yield Path(folder), small.open()


def merged_of(pushes: list[GatheredStore]) -> GatheredStore:
    merged = merge_gathered(pushes)
    assert merged is not None
    return merged


def part_of(store: TargetStore, keys: set[tuple[str, int, int]]) -> GatheredStore:
    """A push of these chunks."""
    arrays = {}
    for name in MENTORS:
        if of_it := [(view, block) for mentor, view, block in keys if mentor == name]:
            array = gather_array(store.mentor(name), of_it)
            arrays[array.identity] = array
    return GatheredStore(manifest=store.manifest, arrays=arrays)


def shown(hub: Hub, fingerprint: str) -> set[tuple[str, int, int]]:
    """The chunks that the hub shows, by the store's document."""
    gathered = hub.gathered(fingerprint)
    assert gathered is not None
    return {(a.name, view, block) for a in gathered.arrays.values() for view, block in a.records}


parts = st.lists(st.sets(st.sampled_from(KEYS), min_size=1), min_size=1, max_size=5)


@settings(deadline=None, max_examples=25)
@given(parts=parts, seed=st.integers(0, 2**32))
def test_pushes_make_the_same_store_in_whatever_order(
    parts: list[set[tuple[str, int, int]]], seed: int
) -> None:
    with whole_store() as (_, store):
        pushes = [part_of(store, keys) for keys in parts]
        merged = merged_of(pushes)
        shuffled = random.Random(seed).sample(pushes, len(pushes))
        assert merged_of(shuffled).to_json() == merged.to_json()
        assert merged_of([merged, *shuffled]).to_json() == merged.to_json()
        records = {
            (array.name, *key): record
            for array in merged.arrays.values()
            for key, record in array.records.items()
        }
        assert records == {
            key: store.mentor(key[0]).commits[key[1:]] for key in set().union(*parts)
        }


class Killed(BaseException):
    """A pusher that dies."""


class Turns:
    """Lets one thread at a time do one thing, as a random order has it; some never come back."""

    def __init__(self, order: random.Random, deaths: float) -> None:
        self._order, self._deaths = order, deaths
        self._waiting: dict[int, threading.Event] = {}
        self._condition = threading.Condition()
        self._alive: set[int] = set()

    def run(self, work: list[Callable[[], None]]) -> list[bool]:
        """Runs them all; which of them were not killed."""
        finished = [False] * len(work)
        errors: list[Exception] = []

        def body(number: int) -> None:
            threading.current_thread().name = str(number)
            try:
                work[number]()
                finished[number] = True
            except Killed:
                pass
            except Exception as error:
                errors.append(error)
            finally:
                with self._condition:
                    self._alive.discard(number)
                    self._condition.notify_all()

        threads = [threading.Thread(target=body, args=(n,)) for n in range(len(work))]
        self._alive = set(range(len(work)))
        for thread in threads:
            thread.start()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting.keys() == self._alive, timeout=20)
                assert self._waiting.keys() == self._alive
                if not self._alive:
                    break
                self._waiting.pop(self._order.choice(sorted(self._waiting))).set()
        for thread in threads:
            thread.join()
        assert not errors
        return finished

    def take(self) -> None:
        """Waits for this thread's turn; raises Killed when it is to die."""
        turn = threading.Event()
        with self._condition:
            self._waiting[int(threading.current_thread().name)] = turn
            self._condition.notify_all()
        assert turn.wait(20)
        if self._order.random() < self._deaths:
            raise Killed


class TurnTaking:
    """A hub's connection whose every request waits for its turn."""

    def __init__(self, connection: Any, turns: Turns) -> None:
        self._connection, self._turns = connection, turns
        self.address = connection.address

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._connection, name)

        def in_turn(*arguments: Any) -> Any:
            self._turns.take()
            return call(*arguments)

        return in_turn


@settings(deadline=None, max_examples=60)
@given(parts=parts, seed=st.integers(0, 2**32), deaths=st.sampled_from([0.0, 0.0, 0.03]))
def test_whoever_pushes_at_once_nothing_of_the_living_is_lost(
    parts: list[set[tuple[str, int, int]]], seed: int, deaths: float
) -> None:
    with whole_store() as (folder, store):
        turns = Turns(random.Random(seed), deaths)

        def pusher(keys: set[tuple[str, int, int]]) -> Callable[[], None]:
            hub = Hub(folder / "hub")
            hub.connection = TurnTaking(hub.connection, turns)  # type: ignore[assignment]

            def push() -> None:
                hub.begin()
                hub.add_push(part_of(store, keys))

            return push

        finished = turns.run([pusher(keys) for keys in parts])
        hub = Hub(folder / "hub")
        lived = [keys for keys, done in zip(parts, finished, strict=True) if done]
        if not lived:
            return
        if all(finished):
            assert shown(hub, store.fingerprint) == set().union(*parts)
            (listed,) = hub.index().stores.values()
            assert sum(one.chunks for one in listed.targets) == len(set().union(*parts))
            assert len(listed.pushes) == len({frozenset(keys) for keys in parts})
        # One who comes after the dead brings back whatever they may have hidden.
        hub.add_push(part_of(store, lived[0]))
        assert shown(hub, store.fingerprint) >= set().union(*lived)
        open_store(folder / "hub")


def other_bytes(array: GatheredArray, sha256: str) -> GatheredArray:
    """The same targets from another machine: one record with another digest."""

    def changed(record: CommitRecord) -> CommitRecord:
        return replace(record, sha256=sha256) if record.key == (0, 0) else record

    return replace(array, records={key: changed(record) for key, record in array.records.items()})


def test_of_two_chunks_with_other_bytes_the_smaller_digest_stands() -> None:
    with whole_store() as (_, store):
        one = part_of(store, set(KEYS))
        (identity, array), *_ = one.arrays.items()
        for sha256, wins in (("0" * 64, True), ("f" * 64, False)):
            other = replace(one, arrays={identity: other_bytes(array, sha256)})
            for order in ([one, other], [other, one]):
                merged = merged_of(order)
                assert (merged.arrays[identity].records[0, 0].sha256 == sha256) is wins


def test_a_damaged_document_is_made_anew_by_the_next_push() -> None:
    with whole_store() as (folder, store):
        hub = Hub(folder / "hub")
        hub.begin()
        hub.add_push(part_of(store, {KEYS[0]}))
        shown_path = folder / "hub" / "stores" / store.fingerprint / "store.json"
        index_path = folder / "hub" / "index.json"
        good = [path.read_bytes() for path in (shown_path, index_path)]
        for path in (shown_path, index_path):
            path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(StoreError, match="is damaged"):
            hub.index()
        with pytest.raises(StoreError, match="is damaged"):
            open_store(hub.store_address(store.fingerprint))
        hub.add_push(part_of(store, {KEYS[0]}))
        assert [path.read_bytes() for path in (shown_path, index_path)] == good


def test_a_push_that_is_not_what_its_name_says_is_left_out_and_stays() -> None:
    with whole_store() as (folder, store):
        hub = Hub(folder / "hub")
        hub.begin()
        hub.add_push(part_of(store, {KEYS[0]}))
        (push,) = (folder / "hub" / "pushes").iterdir()
        push.write_bytes(push.read_bytes().replace(b'"correct": 0', b'"correct": 1'))
        hub.add_push(part_of(store, {KEYS[1]}))
        assert shown(hub, store.fingerprint) == {KEYS[1]}
        assert push.exists()
        hub.add_push(part_of(store, {KEYS[0]}))  # its own writer puts it right
        assert shown(hub, store.fingerprint) == {KEYS[0], KEYS[1]}
