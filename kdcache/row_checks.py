"""Whether targets are what the mentor says: rows run again, and compared within encoding's cost.

Of a store here, when it is verified; of chunks that somebody else computed, before they are taken.
A chunk with w wrong rows of n is found with a probability of 1 - (1 - w/n)^k by k rows that are
drawn at random, whatever the checksums say; one that is wrong throughout is always found. Nobody
who makes a chunk can know which rows these will be: the seed is drawn when they are taken.
"""

import secrets
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.datasets import ImageDataset
from kdcache.encode import HEATMAPS, KEYPOINTS, KINDS, LOGITS, TargetKind
from kdcache.filling import Progress, never
from kdcache.heatmaps import STRIDE
from kdcache.mentors import MentorPool
from kdcache.store import ChunkKey, CommitRecord, Manifest, StoredMentor, decode_payload
from kdcache.store.chunks import DamagedChunk
from kdcache.views import Recipe
from kdcache.wanted import TargetsKey

# A forward pass on another device, or beside other library versions, differs by this much, as a
# share of 1 + |log p|; a wrong checkpoint, class order or view is off by whole units.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
ROWS = 2  # of each chunk that is taken


def unlike(
    stored: StoredMentor,
    record: CommitRecord,
    index: int,
    decoded: NDArray[np.float32],
    again: NDArray[np.float32],
) -> str | None:
    """In what a row (*row) as it was decoded is not what the mentor gives now; None where it is.

    `record`: of its chunk. `index`: the sample's integer. `again`: of the kind `evidence_of`.
    Allowed is the encoder's bound, the error that the record states of targets that were not exact
    before, and `TOLERANCE`.
    """
    if stored.kind is KEYPOINTS:
        return unlike_keypoints(index, decoded, again, TOLERANCE[_precision(stored)])
    decoded, again = np.atleast_1d(decoded), np.atleast_1d(again)
    tolerance = TOLERANCE[_precision(stored)]
    off = np.abs(decoded.astype(np.float64) - again)
    allowed = stored.encoder.bound(again) + tolerance * (1 + np.abs(again))
    allowed += stored.kind.source_error(record.error_sums)
    if (off <= allowed).all():
        return None
    worst = np.unravel_index(int((off - allowed).argmax()), off.shape)
    names = stored.kind.dimension_names  # none, of a row that is one number
    at = "".join(f", {name} {place}" for name, place in zip(names, worst, strict=False))
    return (
        f"sample {index}{at}: the store has {decoded[worst]:.4f}, the mentor says "
        f"{again[worst]:.4f}"
    )


def evidence_of(kind: TargetKind) -> TargetKind:
    """The kind that a mentor is to give for a look at rows of `kind`: keypoints need their maps."""
    return HEATMAPS if kind is KEYPOINTS else kind


def evidence_shape(stored: StoredMentor, manifest: Manifest) -> tuple[int, ...]:
    """The shape of a row of that kind."""
    if stored.kind is KEYPOINTS:
        return HEATMAPS.row_shape(manifest.described)
    return stored.row_shape


def unlike_keypoints(
    index: int,
    keypoints_J3: NDArray[np.float32],
    maps_JHW: NDArray[np.float32],
    tolerance: float,
) -> str | None:
    """In what a row of keypoints is not decoded from these maps; None where it is.

    Numbers of maps may be off by `tolerance` times 1 + |peak|. A keypoint may lie at any pixel that
    is then as high as the peak, since a near tie moves it by any distance, and its quarter pixel
    may go to any side that is as high as the other one.
    """
    height, width = maps_JHW.shape[1:]
    for joint, ((x, y, score), map_HW) in enumerate(zip(keypoints_J3, maps_JHW, strict=True)):
        peak = float(map_HW.max())
        allowed = tolerance * (1 + abs(peak))
        row, column = divmod(int(map_HW.argmax()), width)
        told = (
            f"sample {index}, joint {joint}: the store has {score:.4f} at {x:.1f}, {y:.1f}, the "
            f"mentor says {peak:.4f} near {STRIDE * column}, {STRIDE * row}"
        )
        if not abs(float(score) - peak) <= allowed:
            return told
        if score <= 0:
            if (x, y) != (0, 0):
                return told
            continue
        # Not a number compares false, and is refused here.
        if not (-1 <= x <= STRIDE * width and -1 <= y <= STRIDE * height):
            return told
        column, row = round(float(x) / STRIDE), round(float(y) / STRIDE)
        if not (column < width and row < height and map_HW[row, column] >= peak - 2 * allowed):
            return told
        inside = 1 < column < width - 1 and 1 < row < height - 1
        for moved, (dy, dx) in ((x - STRIDE * column, (0, 1)), (y - STRIDE * row, (1, 0))):
            lead = 0.0
            if inside:
                lead = float(map_HW[row + dy, column + dx]) - float(map_HW[row - dy, column - dx])
            sides = {
                np.sign(lead),
                *((-1.0, 0.0, 1.0) if inside and abs(lead) <= 2 * allowed else ()),
            }
            if not min(abs(float(moved) - 0.25 * STRIDE * side) for side in sides) <= 1e-3:
                return told
    return None


def _precision(stored: StoredMentor) -> str:
    return str(stored.manifest.run_shape["precision"])


class RowChecks:
    """A few rows of each chunk that is to be taken, run by the mentors here; then compared.

    `chunks`: by mentor and kind, of a store of these views, cut as `manifest` says. `rows`: of each
    chunk, drawn by Philox from (seed, view, block), with replacement; the same for all mentors and
    kinds, so that one forward pass of a mentor serves all its kinds. `seed`: None: a secret one,
    or whoever made a chunk could spare the rows that will be looked at.

    All rows are run first, in full passes of the recorded batch: one row alone would cost a whole
    padded one. Memory: these targets, float32, `rows` of each chunk.
    """

    def __init__(
        self,
        pool: MentorPool,
        dataset: ImageDataset,
        recipe: Recipe,
        manifest: Manifest,
        chunks: Mapping[TargetsKey, Collection[ChunkKey]],
        *,
        rows: int = ROWS,
        seed: int | None = None,
    ) -> None:
        self._pool, self._dataset, self._recipe, self._manifest = pool, dataset, recipe, manifest
        self._rows = rows
        self._seed = secrets.randbits(64) if seed is None else seed
        self._together: dict[tuple[TargetsKey, ...], list[ChunkKey]] = {}
        for key in sorted({key for keys in chunks.values() for key in keys}):
            of_it = tuple(targets for targets in chunks if key in chunks[targets])
            self._together.setdefault(of_it, []).append(key)
        self._again: dict[tuple[TargetsKey, ChunkKey], NDArray[np.float32]] = {}

    @property
    def num_rows(self) -> int:
        """Views of samples that mentors are run over."""
        return self._rows * sum(map(len, self._together.values()))

    def positions(self, key: ChunkKey) -> NDArray[np.int64]:
        """Where in the store's index list the rows of a chunk are, (rows,)."""
        view, block = key
        address = block * self._rows + np.arange(self._rows)
        words = philox.words(self._seed, philox.Purpose.TAKEN_ROWS, address, view)
        start = self._manifest.block_rows(block).start
        drawn: NDArray[np.int64] = start + philox.below(words[:, 0], self._manifest.num_rows(block))
        return drawn

    def run(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> bool:
        """Runs the mentors over the rows; whether all were, since it may be asked to stop."""
        done, batch = 0, self._pool.run_shape.batch
        for of_it, keys in self._together.items():
            wanted = [(mentor, evidence_of(KINDS[kind])) for mentor, kind in of_it]
            view_R = np.repeat([view for view, _ in keys], self._rows)
            position_R = np.concatenate([self.positions(key) for key in keys])
            found: list[list[NDArray[np.float32]]] = [[] for _ in of_it]
            for start in range(0, len(view_R), batch):
                if should_stop():
                    return False
                part = slice(start, start + batch)
                pixels_BCHW = self._pixels(view_R[part], position_R[part])
                for rows, targets in zip(
                    found, self._pool.targets(pixels_BCHW, wanted), strict=True
                ):
                    rows.append(targets.cpu().numpy())
                done += len(pixels_BCHW)
                if progress is not None:
                    progress(done, self.num_rows)
            for targets_key, rows in zip(of_it, found, strict=True):
                each = np.split(np.concatenate(rows), len(keys))
                self._again.update({(targets_key, k): a for k, a in zip(keys, each, strict=True)})
        return True

    def _pixels(
        self, view_B: NDArray[np.int64], position_B: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """uint8 (B, C, H, W); views ascend."""
        index_B = self._dataset.index_N[position_B]
        return np.concatenate(
            [
                self._recipe(self._dataset.images(index_V), index_V, int(view))
                for view in np.unique(view_B)
                for index_V in [index_B[view_B == view]]
            ]
        )

    def refuse(self, stored: StoredMentor, key: ChunkKey, payload: memoryview) -> str | None:
        """Why a chunk that arrived is not to be taken; None for one that may be.

        `stored`: of the store that it comes from. Every value of it must be finite, and as many
        rows right as its record says; the rows that were run, alike. For several threads at once,
        once `run` is done.
        """
        rows, record = self._manifest.block_rows(key[1]), stored.commits[key]
        index_B = self._dataset.index_N[rows]
        labels_B = self._dataset.labels(index_B)
        again = self._again[(stored.manifest.name, stored.kind.name), key]
        expected = evidence_shape(stored, self._manifest)
        if again.shape[1:] != expected:
            return f"a row has the shape {expected}, the mentor gives {again.shape[1:]}"
        try:
            decoded = decode_payload(self._manifest, stored, payload, labels_B)
        except DamagedChunk as error:
            return str(error)
        finite = np.isfinite(decoded.reshape(len(decoded), -1)).all(axis=1)
        if not finite.all():
            return f"sample {index_B[int(finite.argmin())]}: the store has NaN or infinity"
        for position, row in zip(self.positions(key) - rows.start, again, strict=True):
            reason = unlike(stored, record, int(index_B[position]), decoded[position], row)
            if reason is not None:
                return reason
        least, most = _right_rows(stored, decoded, labels_B)
        if not least <= record.correct <= most:
            return f"its record states {record.correct} right rows, it has {least} to {most}"
        return None


def _right_rows(
    stored: StoredMentor, decoded: NDArray[np.float32], labels_B: NDArray[np.int64]
) -> tuple[int, int]:
    """How many rows at least, and at most, were right before they were encoded."""
    if stored.kind is not LOGITS or stored.encoder.exact or decoded.shape[1] < 2:
        right = stored.kind.num_correct(decoded, labels_B)
        return right, right
    bound_BC = stored.encoder.bound(decoded)
    others_BC = decoded.astype(np.float64)
    label_B1 = labels_B[:, None]
    of_label_B1 = np.take_along_axis(others_BC, label_B1, axis=1)
    np.put_along_axis(others_BC, label_B1, -np.inf, axis=1)
    lead_B = of_label_B1[:, 0] - others_BC.max(axis=1)
    # Each side may be off by its bound, which is that of a value near by: hence three, not two.
    slack_B = 3 * bound_BC.max(axis=1)
    return int((lead_B > slack_B).sum()), int((lead_B >= -slack_B).sum())
