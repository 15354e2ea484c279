"""Export: a new store of the same views from one that is there, encoded otherwise; no mentor runs.

    source -> decode -> encode -> commit          one chunk at a time

The views, the samples and the mentors' identities are the source's, so the destination is the store
that `precompute` with that encoder makes, bit for bit where the source is exact. Where it is not,
errors add up: every commit record of the destination then states both, and a source that is coarser
than what is wanted is refused.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.calibration import (
    Calibration,
    needs_calibration,
    require_fidelity,
)
from kdcache.defaults import (
    existing_store,
    require_kept_fidelity,
    require_suits,
    stored_encoders,
)
from kdcache.encode import KINDS, Encoder, find_encoder
from kdcache.errors import MissingTargets, UsageError
from kdcache.filling import Progress, fill_store, never
from kdcache.plan import soundness
from kdcache.recalibration import recalibrate, require_finer
from kdcache.store import (
    ChunkKey,
    StoredMentor,
    TargetStore,
    commit_targets,
    decode_into,
    healing_command,
    local_path,
    open_store,
    refuse_foreign,
    require_files,
    view_ranges,
)
from kdcache.two_stores import asked_views, require_views_of
from kdcache.wanted import TargetsKey, Wanted, encoder_of, present_targets


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export did.

    `stopped`: it was asked to stop before it was done. `healed`: damaged or lost documents of the
    destination that were made anew. `num_rows`: targets of one (view, sample, mentor, kind).
    """

    store: TargetStore
    stopped: bool
    healed: Sequence[Path]
    num_rows: int
    seconds: float


class ExportJob:
    """One export: made, looked at, then run.

    `source`: a store or its path. `destination`: the path of a new store, or of one of the same
    views, to which is added what it lacks. `encoder`: a name, or "auto", for the mentors' logits or
    heatmaps; `fidelity`: as `PrecomputeJob` has both; targets of the source take the place of the
    mentors'. Features, logsumexps and keypoints go along, in the encoder that suits these.
    `mentors`: names; None: all. `views`: how many, or which; None: whatever the source has of each
    mentor, complete or not.

    Attributes: `root`; `wanted`; `chunks`: those to be committed, by view and block; `reused`: how
    many are there already; `calibrations` by mentor; `inexact`: for each mentor whose targets the
    source does not hold exactly, a line that says so.

    Raises UsageError for a destination that is the source, and a source that cannot be had as
    exactly as is asked for; StoreMismatch when the destination is of other views or holds one of
    these mentors in another encoder; StoreError for a folder that is no store; MissingTargets and
    DamagedTargets of the source.
    """

    def __init__(
        self,
        source: TargetStore | str | os.PathLike[str],
        destination: str | os.PathLike[str],
        *,
        encoder: str,
        fidelity: float | None = None,
        mentors: Sequence[str] | None = None,
        views: int | Sequence[int] | None = None,
    ) -> None:
        require_fidelity(encoder, fidelity)
        self.source = source if isinstance(source, TargetStore) else open_store(source)
        self.root = local_path(destination)
        manifest = self.source.manifest
        require_suits(encoder, fidelity, manifest.primary)
        if os.path.realpath(self.root) == os.path.realpath(self.source.root):
            raise UsageError(
                f"{self.root} is the source itself; name a new folder as the destination"
            )
        refuse_foreign(self.root)
        existing = existing_store(self.root, manifest)
        if existing is not None:
            require_views_of(self.source, existing)
        names = list(dict.fromkeys(self.source.mentors if mentors is None else mentors))
        if not names:
            raise MissingTargets(f"{self.source.address} has no mentor; there is nothing to export")
        primary = [self.source.mentor(name) for name in names]
        self._keys = self._choose_chunks(primary, views)
        self.calibrations: dict[str, Calibration] = {}
        self.inexact: dict[str, str] = {}
        encoders = self._choose_encoders(primary, encoder, fidelity, existing)
        self.wanted = tuple(
            Wanted(
                mentor=stored.manifest,
                kind=stored.kind,
                encoder=encoder_of(stored.kind, encoders[stored.manifest.name]),
                width=stored.row_shape[0] if stored.kind.from_features else None,
            )
            for stored in self._sources(primary)
        )
        self._views = {one.key: self._num_views(one.key, views is None) for one in self.wanted}
        present = {} if existing is None else present_targets(existing, self.wanted)
        self.chunks = self._lacking(present)
        self.reused = sum(map(len, self._keys.values())) - sum(map(len, self.chunks.values()))

    def _num_views(self, key: TargetsKey, all_of_them: bool) -> int:
        if all_of_them:
            return self.source.mentor(*key).declared_views
        return 1 + max(view for view, _ in self._keys[key])

    def _sources(self, primary: Sequence[StoredMentor]) -> list[StoredMentor]:
        """Every kind of these mentors' targets, the primary one first."""
        names = [stored.manifest.name for stored in primary]
        return [
            self.source.mentor(name, kind)
            for name in names
            for kind in KINDS
            if kind in self.source.kinds(name)
        ]

    def _choose_chunks(
        self, primary: Sequence[StoredMentor], views: int | Sequence[int] | None
    ) -> dict[TargetsKey, list[ChunkKey]]:
        """The chunks to have of each of these mentors' kinds; their files are there."""
        asked = asked_views(views)
        chosen = set(asked or ())
        blocks = self.source.manifest.num_blocks
        keys = {}
        for stored in self._sources(primary):
            name, kind = stored.manifest.name, stored.kind.name
            lost = {wrong.key for wrong in stored.broken if wrong.key[1] < blocks}
            there = sorted({*stored.commits, *lost})
            if asked is not None:
                there = [key for key in there if key[0] in chosen]
                counts = Counter(view for view, _ in there)
                if missing := [view for view in asked if counts[view] != blocks]:
                    raise MissingTargets(
                        f"{self.source.address} has not all of view {view_ranges(missing[:99])} of "
                        f"mentor {stored.title!r}; it declares {stored.declared_views} views. Ask "
                        "for others with --views, or finish them with: "
                        f"{healing_command(self.source, [name], [kind])}"
                    )
            for view, block in there:
                require_files(self.source, [stored], view, [block])
            if not there and stored.kind.primary:
                raise MissingTargets(
                    f"{self.source.address} has nothing of mentor {stored.title!r} yet. Compute it "
                    f"with: {healing_command(self.source, [name], [kind])}"
                )
            keys[name, kind] = there
        return keys

    def _choose_encoders(
        self,
        primary: Sequence[StoredMentor],
        name: str,
        fidelity: float | None,
        existing: TargetStore | None,
    ) -> dict[str, Encoder]:
        """By mentor: as the destination has it, else as asked, calibrated on the source."""
        encoders = stored_encoders(name, existing, [stored.manifest.name for stored in primary])
        if fidelity is not None:
            require_kept_fidelity(existing, encoders, fidelity)
        for stored in primary:
            mentor = stored.manifest.name
            if fidelity is None and stored.encoder.name == name:  # a fitted one as it was fitted
                encoders.setdefault(mentor, stored.encoder)
            views = sorted({view for view, _ in self._keys[mentor, stored.kind.name]})
            if mentor not in encoders and needs_calibration(name, fidelity):
                found = recalibrate(self.source, stored, views, name, fidelity)
                self.calibrations[mentor] = found
                encoders[mentor] = found.chosen
            elif mentor not in encoders:
                encoders[mentor] = find_encoder(name)
            if not stored.encoder.exact:
                self.inexact[mentor] = require_finer(self.source, stored, views, encoders[mentor])
        return encoders

    def _lacking(self, present: Mapping[TargetsKey, StoredMentor]) -> dict[ChunkKey, list[Wanted]]:
        """What the destination lacks or has damaged, every byte of it read; by view and block."""
        is_sound = soundness(self.source.manifest, self.wanted, present)
        lacking: dict[ChunkKey, list[Wanted]] = {}
        for one in self.wanted:
            for key in self._keys[one.key]:
                if not is_sound(one, key):
                    lacking.setdefault(key, []).append(one)
        return dict(sorted(lacking.items()))

    @property
    def num_rows(self) -> int:
        """Targets of one (view, sample, mentor, kind) that are to be encoded."""
        manifest = self.source.manifest
        return sum(manifest.num_rows(block) * len(of) for (_, block), of in self.chunks.items())

    def run(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> ExportResult:
        """Encodes and commits what is lacking; stops between chunks when asked to.

        Memory: one chunk, encoded, and one block of one mentor's targets in float32, a few times.
        Raises RunFailed for values that the encoder cannot hold, and a full disk; StoreError for a
        folder that vanished or cannot be written. What was finished is committed.
        """
        started = time.perf_counter()
        done, healed = fill_store(
            self.root,
            self.source.manifest,
            self.source,
            self.wanted,
            self._views,
            self.calibrations.values(),
            (lambda store: self._fill(store, progress, should_stop)) if self.chunks else None,
            lambda store: require_views_of(self.source, store),
        )
        return ExportResult(
            store=open_store(self.root),
            stopped=done < self.num_rows,
            healed=healed,
            num_rows=done,
            seconds=time.perf_counter() - started,
        )

    def _fill(
        self, store: TargetStore, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> int:
        manifest, done = self.source.manifest, 0
        for (view, block), lacking in self.chunks.items():
            rows = manifest.block_rows(block)
            positions_B = np.arange(rows.start, rows.stop)
            for one in lacking:
                if should_stop():
                    return done
                stored = self.source.mentor(*one.key)
                targets = np.empty((len(positions_B), *stored.row_shape), dtype=np.float32)
                decode_into(targets, self.source, stored, view, positions_B)
                commit_targets(
                    store.mentor(*one.key),
                    (view, block),
                    targets,
                    self.source.block_labels(block),
                    manifest.block,
                    stored.commits[view, block].error_sums,
                )
                done += len(targets)
                if progress is not None:
                    progress(done, self.num_rows)
        return done


def export_store(
    source: TargetStore | str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    encoder: str,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = never,
    **options: Any,
) -> TargetStore:
    """Encodes what a store holds anew, into another one of the same views, and returns that.

    No mentor runs. The other options are `ExportJob`'s. Incremental: calling it again encodes only
    what is missing or damaged in the destination.
    """
    job = ExportJob(source, destination, encoder=encoder, **options)
    return job.run(progress=progress, should_stop=should_stop).store
