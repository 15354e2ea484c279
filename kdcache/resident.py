"""One view of some mentors in memory: rows still encoded, gathered by sample and then decoded.

Mentors of the same encoder share one allocation, pinned for CUDA, which the next view overwrites;
where it fits, the device has a copy of it, and rows are gathered there (device_rows.py).
Every chunk is checked as it is read.

Shapes: B batch, M mentors, N samples (padded to whole blocks), then the kind's row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.device_rows import rows_on
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP, Encoder, raw_logits
from kdcache.sources import Targets
from kdcache.store import StoredMentor, TargetStore, chunk_reader, read_block


class ResidentView:
    """The encoded rows of one view of some mentors, in memory, by sample.

    `kinds`: names of the kinds of targets; logits are among them.
    """

    def __init__(
        self,
        store: TargetStore,
        mentors: Sequence[str],
        device: torch.device,
        kinds: Sequence[str] = (LOGITS.name,),
    ) -> None:
        self._store = store
        stored = {kind: [store.mentor(name, kind) for name in mentors] for kind in kinds}
        self._logits = _Columns(store, stored[LOGITS.name], device)
        self._logsumexp = self._features = None
        if LOGSUMEXP.name in stored:
            self._logsumexp = _Columns(store, stored[LOGSUMEXP.name], device)
        if FEATURES.name in stored:  # as wide as each mentor's own: side by side in no tensor
            self._features = [_Columns(store, [one], device) for one in stored[FEATURES.name]]

    def load(self, view: int) -> "ResidentView":
        """Replaces what is in memory by another view."""
        for columns in self._all():
            columns.load(view)
        return self

    @property
    def num_bytes(self) -> int:
        """Memory for the encoded rows."""
        return sum(columns.num_bytes for columns in self._all())

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, C) on the device: the logits of `gather_targets`."""
        return self._gather_logits(self._positions(index_B))

    def gather_targets(self, index_B: NDArray[np.int64]) -> Targets:
        """Raises MissingTargets for unknown samples."""
        positions_B = self._positions(index_B)
        features = None
        if self._features is not None:
            features = tuple(column.gather(positions_B).squeeze(1) for column in self._features)
        return Targets(logits=self._gather_logits(positions_B), features=features)

    def _all(self) -> list["_Columns"]:
        extra = [] if self._logsumexp is None else [self._logsumexp]
        return [self._logits, *extra, *(self._features or ())]

    def _positions(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._store.positions(np.asarray(index_B)))

    def _gather_logits(self, positions_B: torch.Tensor) -> torch.Tensor:
        logits_BMC = self._logits.gather(positions_B)
        if self._logsumexp is None:
            return logits_BMC
        return raw_logits(logits_BMC, self._logsumexp.gather(positions_B))


class _Columns:
    """Several mentors' rows of one kind and shape, each in its encoder: together (N, M, *row)."""

    def __init__(
        self, store: TargetStore, stored: Sequence[StoredMentor], device: torch.device
    ) -> None:
        columns: dict[Encoder, list[int]] = {}
        for column, one in enumerate(stored):
            columns.setdefault(one.encoder, []).append(column)
        self._groups = [
            _EncodedRows(store, [stored[c] for c in members], device)
            for members in columns.values()
        ]
        # Where each mentor's column lies when the groups' are put side by side.
        together = [column for members in columns.values() for column in members]
        self._order_M = torch.tensor(together).argsort().to(device)

    def load(self, view: int) -> None:
        for group in self._groups:
            group.load(view)

    @property
    def num_bytes(self) -> int:
        return sum(group.num_bytes for group in self._groups)

    def gather(self, positions_B: torch.Tensor) -> torch.Tensor:
        """float32 (B, M, *row) on the device."""
        if len(self._groups) == 1:
            return self._groups[0].gather(positions_B)
        together = torch.cat([group.gather(positions_B) for group in self._groups], dim=1)
        return together.index_select(1, self._order_M)


class _EncodedRows:
    """The rows of those mentors that share an encoder: (M', N, *row), one allocation."""

    def __init__(
        self,
        store: TargetStore,
        stored: Sequence[StoredMentor],
        device: torch.device,
    ) -> None:
        self._store, self._stored = store, stored
        self._encoder, self._row_shape = stored[0].encoder, stored[0].row_shape
        self._reader = chunk_reader(store, stored[0])
        manifest = store.manifest
        self._padded_samples = manifest.block * manifest.num_blocks
        self._rows = torch.empty(
            (len(stored) * self._padded_samples, *self._row_shape),
            dtype=getattr(torch, self._encoder.dtype),
            pin_memory=device.type == "cuda",
        )
        self._on_device = rows_on(device, self._rows)
        self._first_row_M = torch.arange(len(stored)) * self._padded_samples

    def load(self, view: int) -> None:
        self._on_device.settle()
        bytes_of = self._rows.numpy().data.cast("B")
        manifest = self._store.manifest
        chunk = len(bytes_of) // (len(self._stored) * manifest.num_blocks)
        position = 0
        for stored in self._stored:
            for block in range(manifest.num_blocks):
                rows = bytes_of[position : position + chunk]
                read_block(self._store, stored, view, block, rows, self._reader)
                position += chunk
        self._on_device.refresh(0, len(self._rows))

    @property
    def num_bytes(self) -> int:
        return self._rows.untyped_storage().nbytes()

    def gather(self, positions_B: torch.Tensor) -> torch.Tensor:
        rows_BM = positions_B[:, None] + self._first_row_M
        encoded = self._on_device.take(rows_BM.view(-1))
        return self._encoder.decode(encoded).view(*rows_BM.shape, *self._row_shape)
