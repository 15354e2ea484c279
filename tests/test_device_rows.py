"""Rows kept on the training device are those of the store, and their copies are left in peace.

No accelerator is needed for what is tested here: the same code runs on the CPU when it is asked to.
Streams and events are CUDA's alone.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.device_rows import Copies, rows_on
from kdcache.mentors import Mentor
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=50)
@given(data=st.data(), rows=st.integers(1, 30), resident=st.booleans())
def test_rows_are_the_buffers_as_it_was_last_refreshed(
    data: st.DataObject, rows: int, resident: bool
) -> None:
    buffer = torch.zeros(rows, 3, dtype=torch.float16)
    on_device = rows_on(CPU, buffer, resident=resident)
    for value in range(1, data.draw(st.integers(1, 6))):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
        on_device.settle()
        buffer[start:stop] = value
        on_device.refresh(start, stop)
        row_K = torch.tensor(data.draw(st.lists(st.integers(start, max(start, stop - 1)))))
        row_K = row_K[row_K < stop].long()
        assert torch.equal(on_device.take(row_K), buffer[row_K])


class WatchedCopies(Copies):
    """Copies whose sources are looked at again when they may change."""

    def __init__(self) -> None:
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.copied = self.before = self.after = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        super().copy(target, source)
        self.under_way.append((source, source.clone()))
        self.copied += 1

    def settle(self) -> None:
        for source, as_it_was in self.under_way:
            assert torch.equal(source.view(torch.uint8), as_it_was.view(torch.uint8))
        self.under_way.clear()

    def before_take(self) -> None:
        self.before += 1

    def after_take(self) -> None:
        self.after += 1


@pytest.fixture
def store(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    """Five views of two mentors with different encoders, features too."""
    for mentor, encoder in zip(digits_mentors, ("float16", "sqrt8"), strict=True):
        made = kdcache.precompute_targets(
            digits, [mentor], store=tmp_path / "store", views=5, encoder=encoder, features=True
        )
    return made


def test_a_stream_gathers_on_the_device_what_it_gathers_on_the_host(
    store: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no buffer is written to before its last copy is done."""
    made: list[WatchedCopies] = []

    def watched(device: torch.device, buffer: torch.Tensor) -> object:
        made.append(WatchedCopies())
        return rows_on(device, buffer, resident=True, copies=made[-1])

    plain = TargetStream(store, device="cpu", features=True)
    monkeypatch.setattr("kdcache.resident.rows_on", watched)
    on_device = TargetStream(store, device="cpu", features=True)
    generator = np.random.default_rng(0)
    for view in (0, 1, 2, 3, 4, 0, 2):
        with plain.view(view) as expected, on_device.view(view) as found:
            for _ in range(3):
                index = generator.choice(store.index_N, 40)
                ours, theirs = expected.gather_targets(index), found.gather_targets(index)
                assert ours.logits is not None
                assert theirs.logits is not None
                assert torch.equal(ours.logits, theirs.logits)
                for a, b in zip(ours.features or (), theirs.features or (), strict=True):
                    assert torch.equal(a, b)
    assert sum(copies.copied for copies in made) >= 7 * len(made) / 2
    for copies in made:
        assert copies.before == copies.after - 1  # and once when the memory was taken


def test_rows_are_taken_without_waiting_for_the_device() -> None:
    """A meta tensor has no values: whatever asks for one raises."""
    meta = torch.device("meta")
    for resident in (True, False):
        on_device = rows_on(meta, torch.zeros(9, 3), resident=resident)
        on_device.settle()
        on_device.refresh(0, 9)
        taken = on_device.take(torch.tensor([2, 5]))
        assert (taken.device.type, taken.shape) == ("meta", (2, 3))
