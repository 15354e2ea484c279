"""Blocks of a view of some mentors in memory: rows still encoded, gathered and then decoded.

Memory is slots of one block each, which later blocks overwrite: as many as a view has blocks, or
fewer (`windowed`). Mentors of one family of encoders share one allocation, pinned for CUDA; where
it fits, the device has a copy of it, and rows are gathered there (`device_rows`). Every chunk is
checked as it is read, unless this process did and its file is unchanged since.

Shapes: B batch, M mentors, N samples (padded to whole blocks), S rows of all slots, then the kind's
row.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.device_rows import rows_on
from kdcache.devices import send
from kdcache.encode import FEATURES, LOGSUMEXP, raw_logits
from kdcache.sources import Targets
from kdcache.store import BlockLoader, CheckedFiles, StoredMentor, TargetStore

checked_files = CheckedFiles()  # of this process, for all its streams


class ResidentBlocks:
    """Blocks of some mentors' encoded rows, one a slot, gathered by the rows of all slots.

    `kinds`: names of the kinds of targets, the primary one first. Filling a slot and gathering from
    others may go on at the same time, in one thread each.
    """

    def __init__(
        self,
        store: TargetStore,
        mentors: Sequence[str],
        device: torch.device,
        kinds: Sequence[str] = (),
        *,
        num_slots: int,
    ) -> None:
        kinds = kinds or (store.manifest.primary.name,)
        stored = {kind: [store.mentor(name, kind) for name in mentors] for kind in kinds}
        self._kind = kinds[0]
        self._primary = _Columns(store, stored[self._kind], device, num_slots)
        self._logsumexp = self._features = None
        if LOGSUMEXP.name in stored:
            self._logsumexp = _Columns(store, stored[LOGSUMEXP.name], device, num_slots)
        if FEATURES.name in stored:  # as wide as each mentor's own: side by side in no tensor
            self._features = [
                _Columns(store, [one], device, num_slots) for one in stored[FEATURES.name]
            ]

    def load_block(self, view: int, block: int, slot: int) -> None:
        """Replaces what is in a slot. Raises MissingTargets, DamagedTargets."""
        for columns in self._all():
            columns.load_block(view, block, slot)

    @property
    def num_bytes(self) -> int:
        """Memory for the encoded rows."""
        return sum(columns.num_bytes for columns in self._all())

    def gather_primary(self, rows_B: torch.Tensor) -> torch.Tensor:
        """float32 (B, M, C) logits, or (B, M, J, H, W) heatmaps, on the device."""
        targets_BM = self._primary.gather(rows_B)
        if self._logsumexp is None:
            return targets_BM
        return raw_logits(targets_BM, self._logsumexp.gather(rows_B))

    def gather(self, rows_B: torch.Tensor) -> Targets:
        """All targets there are of these rows of the slots (int64)."""
        features = None
        if self._features is not None:
            features = tuple(column.gather(rows_B).squeeze(1) for column in self._features)
        return Targets.of_primary(self._kind, self.gather_primary(rows_B), features)

    def _all(self) -> list["_Columns"]:
        extra = [] if self._logsumexp is None else [self._logsumexp]
        return [self._primary, *extra, *(self._features or ())]


class ResidentView:
    """A whole view in memory, by sample: block b in slot b, so a sample's position is its row."""

    def __init__(
        self,
        store: TargetStore,
        mentors: Sequence[str],
        device: torch.device,
        kinds: Sequence[str] = (),
    ) -> None:
        self._store, self._num_blocks = store, store.manifest.num_blocks
        self._blocks = ResidentBlocks(store, mentors, device, kinds, num_slots=self._num_blocks)

    def load(self, view: int) -> "ResidentView":
        """Replaces what is in memory by another view."""
        for block in range(self._num_blocks):
            self._blocks.load_block(view, block, slot=block)
        return self

    @property
    def num_bytes(self) -> int:
        """Memory for the encoded rows."""
        return self._blocks.num_bytes

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, ..) on the device: the primary ones of `gather_targets`."""
        return self._blocks.gather_primary(self._positions(index_B))

    def gather_targets(self, index_B: NDArray[np.int64]) -> Targets:
        """Raises MissingTargets for unknown samples."""
        return self._blocks.gather(self._positions(index_B))

    def _positions(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._store.positions(np.asarray(index_B)))


class _Columns:
    """Several mentors' rows of one kind and shape, each in its encoder: together (N, M, *row)."""

    def __init__(
        self,
        store: TargetStore,
        stored: Sequence[StoredMentor],
        device: torch.device,
        num_slots: int,
    ) -> None:
        columns: dict[Hashable, list[int]] = {}
        for column, one in enumerate(stored):
            columns.setdefault(one.encoder.family, []).append(column)
        self._groups = [
            _EncodedRows(store, [stored[c] for c in members], device, num_slots)
            for members in columns.values()
        ]
        # Where each mentor's column lies when the groups' are put side by side.
        together = [column for members in columns.values() for column in members]
        self._order_M = torch.tensor(together).argsort().to(device)

    def load_block(self, view: int, block: int, slot: int) -> None:
        for group in self._groups:
            group.load_block(view, block, slot)

    @property
    def num_bytes(self) -> int:
        return sum(group.num_bytes for group in self._groups)

    def gather(self, rows_B: torch.Tensor) -> torch.Tensor:
        """float32 (B, M, *row) on the device."""
        if len(self._groups) == 1:
            return self._groups[0].gather(rows_B)
        together = torch.cat([group.gather(rows_B) for group in self._groups], dim=1)
        return together.index_select(1, self._order_M)


class _EncodedRows:
    """The rows of those mentors whose encoders are of one family: (M', S, *row), one allocation."""

    def __init__(
        self,
        store: TargetStore,
        stored: Sequence[StoredMentor],
        device: torch.device,
        num_slots: int,
    ) -> None:
        self._store, self._stored, self._device = store, stored, device
        encoder, block = stored[0].encoder, store.manifest.block
        self._loader = BlockLoader(store, stored[0], checked_files)
        self._decode = encoder.decode_together([one.encoder for one in stored], device)
        self._rows = torch.empty(
            (len(stored) * num_slots * block, *encoder.resident_row(stored[0].row_shape)),
            dtype=getattr(torch, encoder.dtype),
            pin_memory=device.type == "cuda",
        )
        self._sample_shape = (len(stored), *self._rows.shape[1:])  # of all mentors, of one sample
        self._on_device = rows_on(device, self._rows)
        self._slots = self._rows.numpy().reshape(
            len(stored), num_slots, block, *self._rows.shape[1:]
        )
        self._first_row_M = torch.arange(len(stored)) * (num_slots * block)
        self._needs_labels = encoder.needs_labels
        self._labels_S = torch.zeros(
            num_slots * block if encoder.needs_labels else 0, dtype=torch.int64
        )

    def load_block(self, view: int, block: int, slot: int) -> None:
        self._on_device.settle()
        rows = self._store.manifest.block
        for stored, slots, first in zip(
            self._stored, self._slots, self._first_row_M.tolist(), strict=True
        ):
            self._loader.load(stored, view, block, slots[slot])
            self._on_device.refresh(first + slot * rows, first + (slot + 1) * rows)
        if self._needs_labels:
            labels = torch.from_numpy(self._store.block_labels(block))
            self._labels_S[slot * rows : slot * rows + len(labels)] = labels

    @property
    def num_bytes(self) -> int:
        return self._rows.untyped_storage().nbytes() + self._labels_S.untyped_storage().nbytes()

    def gather(self, rows_B: torch.Tensor) -> torch.Tensor:
        rows_BM = rows_B[:, None] + self._first_row_M
        encoded = self._on_device.take(rows_BM.view(-1)).view(len(rows_B), *self._sample_shape)
        labels_B = rows_B  # not looked at
        if self._needs_labels:
            labels_B = send(self._labels_S[rows_B], self._device)
        return self._decode(encoded, labels_B)
