"""Opening a store and reading from it."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from kdcache.encode import LOGITS, find_kind
from kdcache.errors import MissingTargets, StoreError
from kdcache.store.chunk_reading import damaged_chunk, decode_into, require_files
from kdcache.store.healing import healing_command, view_ranges
from kdcache.store.layout import LISTS, listed
from kdcache.store.manifest import Manifest, read_manifest
from kdcache.store.sample_lists import read_list
from kdcache.store.stored_mentor import StoredMentor, chunk_bytes, is_made, open_mentor
from kdcache.views import Recipe, recipe_from_description


class TargetStore:
    """A store opened for reading; a snapshot of what was committed at that moment.

    Attributes: `root`, `manifest`, `fingerprint`, `mentors` (names, alphabetical), `num_samples`,
    `num_views` (the most any mentor was given), `index_N` (int64, the samples' permanent integers,
    ascending). A mentor has targets of one or more kinds, always "logits", maybe "features" and
    "logsumexp"; where a kind is not said, logits are meant.

    `manifest`: given where the store's own is damaged and this one is to take its place.
    """

    def __init__(self, root: Path, manifest: Manifest | None = None) -> None:
        self.root = root
        self.manifest: Manifest = manifest or read_manifest(root)
        self._targets: dict[str, dict[str, StoredMentor | StoreError]] = dict(
            open_mentor(group, self.manifest) for group in _mentor_folders(root)
        )

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def mentors(self) -> list[str]:
        return list(self._targets)

    def kinds(self, mentor: str) -> tuple[str, ...]:
        """The kinds of targets a mentor has, sound or not; none of one that is not there."""
        return tuple(self._find(mentor) or ())

    @property
    def sound_targets(self) -> list[StoredMentor]:
        """Every mentor's targets of every kind that can be opened."""
        return [
            stored
            for kinds in self._targets.values()
            for stored in kinds.values()
            if isinstance(stored, StoredMentor)
        ]

    @property
    def sound_mentors(self) -> list[StoredMentor]:
        """The logits among them."""
        return [stored for stored in self.sound_targets if stored.kind is LOGITS]

    @property
    def target_errors(self) -> dict[tuple[str, str], StoreError]:
        """Why the others cannot be opened, by mentor (its folder's name, where its own is not
        known) and kind."""
        return {
            (name, kind): error
            for name, kinds in self._targets.items()
            for kind, error in kinds.items()
            if isinstance(error, StoreError)
        }

    @property
    def mentor_errors(self) -> dict[str, StoreError]:
        """Those of logits, by mentor."""
        errors = self.target_errors.items()
        return {name: error for (name, kind), error in errors if kind == LOGITS.name}

    @cached_property
    def num_samples(self) -> int:
        return self.manifest.num_samples

    @property
    def num_views(self) -> int:
        return max((m.declared_views for m in self.sound_mentors), default=0)

    @cached_property
    def recipe(self) -> Recipe:
        """How its views are made."""
        return recipe_from_description(self.manifest.recipe, self.manifest.view_seed)

    @cached_property
    def index_N(self) -> NDArray[np.int64]:
        return read_list(self.root, LISTS[0], self.manifest)

    @cached_property
    def labels_N(self) -> NDArray[np.int64]:
        return read_list(self.root, LISTS[1], self.manifest)

    def labels(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of these samples. Raises MissingTargets for an unknown one."""
        return self.labels_N[self.positions(index_B)]

    def block_labels(self, block: int) -> NDArray[np.int64]:
        """The labels of a block's samples."""
        return self.labels_N[self.manifest.block_rows(block)]

    @cached_property
    def _is_range(self) -> bool:
        """Whether the samples are 0 to N - 1, so that an index is its own position."""
        return bool(self.index_N[-1] == self.num_samples - 1)

    def mentor(self, name: str, kind: str = LOGITS.name) -> StoredMentor:
        """One mentor's targets of one kind.

        Raises MissingTargets, naming what is there and the command that adds it; DamagedTargets.
        """
        kinds = self._find(name)
        if kinds is None:
            raise MissingTargets(
                f"{self.root} has no mentor {name!r}; it has {', '.join(self.mentors) or 'none'}. "
                f"Add it with: {healing_command(self, [name], [kind])}"
            )
        self._require_kinds([name], [kind])
        found = kinds[kind]
        if isinstance(found, StoreError):
            raise found
        return found

    def _find(self, mentor: str) -> dict[str, StoredMentor | StoreError] | None:
        return self._targets.get(mentor) or self._targets.get(mentor.replace(":", "."))

    def _require_kinds(self, mentors: Sequence[str], kinds: Sequence[str]) -> None:
        """Raises MissingTargets for kinds of targets that some of these mentors do not have."""
        lacking = {
            find_kind(kind).name: [name for name in mentors if kind not in self.kinds(name)]
            for kind in kinds
        }
        lacking = {kind: names for kind, names in lacking.items() if names}
        if lacking:
            names = [name for name in mentors if any(name in those for those in lacking.values())]
            what = " and ".join(f"no {kind} of {', '.join(lacking[kind])}" for kind in lacking)
            raise MissingTargets(
                f"{self.root} has {what} in any of its views, "
                f"{view_ranges(range(self.num_views))}. Add them with: "
                f"{healing_command(self, names, lacking)}"
            )

    def usable_views(
        self,
        mentors: Sequence[str],
        wanted: Sequence[int] | None = None,
        kinds: Sequence[str] = (LOGITS.name,),
    ) -> list[int]:
        """Views complete for all these mentors and kinds, among the `wanted` ones (None: all).

        Raises MissingTargets when there is none, or a mentor lacks a kind; DamagedTargets when one
        lost a commit record: it is not passed over in silence.
        """
        for name in mentors:
            self.mentor(name)
        self._require_kinds(mentors, kinds)
        chosen = [self.mentor(name, kind) for name in mentors for kind in kinds]
        for stored in chosen:
            for wrong in stored.broken:
                if wanted is None or wrong.key[0] in wanted:
                    raise damaged_chunk(self, stored, wrong.key, wrong.path, wrong.reason)
        complete = [set(stored.complete_views(self.manifest.num_blocks)) for stored in chosen]
        usable = sorted(set.intersection(*complete)) if complete else []
        if not usable:
            what = ", ".join(stored.title for stored in chosen)
            raise MissingTargets(
                f"{self.root} has no view complete for {what or 'no mentor'}; "
                f"finish it with: {healing_command(self, mentors, kinds)}"
            )
        return usable

    def positions(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row positions of permanent sample integers. Raises MissingTargets for an unknown one."""
        index_B = np.asarray(index_B, dtype=np.int64)
        if (
            self._is_range
            and index_B.size
            and 0 <= index_B.min() <= index_B.max() < self.num_samples
        ):
            return index_B
        positions_B = np.searchsorted(self.index_N, index_B).clip(max=self.num_samples - 1)
        unknown = index_B[self.index_N[positions_B] != index_B]
        if unknown.size:
            raise MissingTargets(
                f"{self.root} holds no targets for {unknown.size} of the samples asked for (first: "
                f"{unknown[0]}); it holds {self.num_samples} samples of "
                f"{self.manifest.dataset['name']} ({self.manifest.dataset['split']}). Ask for "
                "these only (--samples), or precompute another store"
            )
        return positions_B

    def chunk_bytes(self, mentor: str, kind: str = LOGITS.name) -> int:
        """Bytes of one of a mentor's chunks in memory, still encoded."""
        stored = self.mentor(mentor, kind)
        return chunk_bytes(self.manifest, stored.encoder, stored.row_shape)

    @overload
    def targets(
        self,
        view: int,
        index: NDArray[np.int64],
        mentors: Sequence[str] | None = None,
        kind: Literal["logits", "logsumexp"] = "logits",
    ) -> NDArray[np.float32]: ...

    @overload
    def targets(
        self,
        view: int,
        index: NDArray[np.int64],
        mentors: Sequence[str] | None = None,
        *,
        kind: Literal["features"],
    ) -> tuple[NDArray[np.float32], ...]: ...

    def targets(
        self,
        view: int,
        index: NDArray[np.int64],
        mentors: Sequence[str] | None = None,
        kind: str = LOGITS.name,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], ...]:
        """Targets as decoded, of mentors in the order asked: float32.

        `kind`: "logits": log-probabilities (B, M, C); "logsumexp": (B, M), which added to them give
        the raw logits; "features": a tuple of M arrays (B, F), each mentor's as wide as its own.
        For looking and checking; training uses `TargetStream`. Raises MissingTargets.
        """
        positions_B = self.positions(index)
        names = self.mentors if mentors is None else mentors
        chosen = [self.mentor(name, kind) for name in names]
        blocks = np.unique(positions_B // self.manifest.block).tolist()
        require_files(self, chosen, view, blocks)
        if find_kind(kind).from_features:
            apart = [np.empty((len(positions_B), *s.row_shape), dtype=np.float32) for s in chosen]
            for rows_BF, stored in zip(apart, chosen, strict=True):
                decode_into(rows_BF, self, stored, view, positions_B)
            return tuple(apart)
        row_shape = find_kind(kind).row_shape(self.manifest.dataset)
        rows_BM = np.empty((len(positions_B), len(chosen), *row_shape), dtype=np.float32)
        for column, stored in enumerate(chosen):
            decode_into(rows_BM[:, column], self, stored, view, positions_B)
        return rows_BM


def open_store(path: str | os.PathLike[str]) -> TargetStore:
    """Opens the store at a path for reading. Raises StoreError when it is none."""
    root = local_path(path)
    if not root.exists():
        raise StoreError(f"{root} does not exist. Make a store with `kdcache precompute --store`")
    return TargetStore(root)


def local_path(path: str | os.PathLike[str]) -> Path:
    """A store's folder. Raises StoreError for a URL."""
    if "://" in str(path):
        raise StoreError(
            f"{path}: this version uses stores by path only; copy the store to a local or mounted "
            "folder"
        )
    return Path(path).expanduser()


def _mentor_folders(root: Path) -> list[Path]:
    """The folders of mentors, alphabetical; not hidden ones, nor those never finished."""
    names = [name for name in listed(root / "mentors") if not name.startswith(".")]
    folders = [root / "mentors" / name for name in names]
    return [folder for folder in folders if folder.is_dir() and is_made(folder)]
