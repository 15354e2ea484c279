"""Opening a store and reading from it."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from kdcache.encode import PRIMARY, find_kind
from kdcache.errors import MissingTargets, StoreError
from kdcache.store.array_documents import chunk_bytes, is_made
from kdcache.store.chunk_reading import damaged_chunk, decode_into, require_files
from kdcache.store.healing import healing_command, view_ranges
from kdcache.store.layout import LISTS, listed
from kdcache.store.manifest import Manifest, read_manifest
from kdcache.store.remote_store import RemoteStore
from kdcache.store.sample_lists import read_list
from kdcache.store.stored_mentor import StoredMentor, open_mentor
from kdcache.views import Recipe, recipe_from_description

_MOST_SPREAD = 16  # sample integers a sample, up to which a table of positions is held


class TargetStore:
    """A store opened for reading; a snapshot of what was committed at that moment.

    Attributes: `root`, `manifest`, `fingerprint`, `mentors` (names, alphabetical), `num_samples`,
    `num_views` (the most any mentor was given), `index_N` (int64, the samples' permanent integers,
    ascending). A mentor has targets of one or more kinds, always "logits", maybe "features" and
    "logsumexp"; where a kind is not said, logits are meant.

    `manifest`: given where the store's own is damaged and this one is to take its place. `remote`:
    the store at a URL whose mirror `root` is; its chunks are fetched when they are read. `address`:
    what the store is called, its path or URL.
    """

    def __init__(
        self, root: Path, manifest: Manifest | None = None, remote: RemoteStore | None = None
    ) -> None:
        self.root = root
        self.remote = remote
        self.manifest: Manifest = manifest or read_manifest(root)
        self._targets: dict[str, dict[str, StoredMentor | StoreError]] = dict(
            open_mentor(group, self.manifest) for group in _mentor_folders(root)
        )

        for error in self.target_errors.values() if remote is not None else ():
            remote.explain(error)  # type: ignore[union-attr]  # it is one where the loop runs

    @property
    def address(self) -> str:
        return str(self.root) if self.remote is None else self.remote.address

    def shown(self, path: Path) -> str:
        """A path of the store as it is told: for a store at a URL, the URL."""
        return str(path) if self.remote is None else self.remote.shown(path)

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
        """The primary ones among them."""
        return [stored for stored in self.sound_targets if stored.kind.primary]

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
        """Those of primary targets, by mentor."""
        errors = self.target_errors.items()
        return {name: error for (name, kind), error in errors if kind in PRIMARY}

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
        return self._read_list(LISTS[0])

    @cached_property
    def labels_N(self) -> NDArray[np.int64]:
        return self._read_list(LISTS[1])

    def _read_list(self, name: str) -> NDArray[np.int64]:
        if self.remote is None:
            return read_list(self.root, name, self.manifest)
        try:
            return read_list(
                self.root, name, self.manifest
            )  # it is what the manifest has a hash of
        except StoreError:
            self.remote.fetch_list(name, self.manifest)
        with self.remote.explained():
            return read_list(self.root, name, self.manifest)

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

    @cached_property
    def _position_of(self) -> NDArray[np.int32]:
        """By sample integer: its position, -1 for none; empty where the integers lie far apart."""
        count = int(self.index_N[-1]) + 1
        if count > min(_MOST_SPREAD * self.num_samples, 2**31 - 1):
            return np.empty(0, dtype=np.int32)
        positions = np.full(count, -1, dtype=np.int32)
        positions[self.index_N] = np.arange(self.num_samples)
        return positions

    def mentor(self, name: str, kind: str | None = None) -> StoredMentor:
        """One mentor's targets of one kind; None: the store's primary one.

        Raises MissingTargets, naming what is there and the command that adds it; DamagedTargets.
        """
        kind = kind or self.manifest.primary.name
        kinds = self._find(name)
        if kinds is None:
            raise MissingTargets(
                f"{self.address} has no mentor {name!r}; it has "
                f"{', '.join(self.mentors) or 'none'}. Add it with: "
                f"{healing_command(self, [name], [kind])}"
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
                f"{self.address} has {what} in any of its views, "
                f"{view_ranges(range(self.num_views))}. Add them with: "
                f"{healing_command(self, names, lacking)}"
            )

    def usable_views(
        self,
        mentors: Sequence[str],
        wanted: Sequence[int] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> list[int]:
        """Views complete for all these mentors and kinds, among the `wanted` ones (None: all).

        `kinds`: None: the primary one.

        Raises MissingTargets when there is none, or a mentor lacks a kind; DamagedTargets when one
        lost a commit record: it is not passed over in silence.
        """
        kinds = kinds or (self.manifest.primary.name,)
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
                f"{self.address} has no view complete for {what or 'no mentor'}; "
                f"finish it with: {healing_command(self, mentors, kinds)}"
            )
        return usable

    def positions(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row positions of permanent sample integers. Raises MissingTargets for an unknown one."""
        index_B = np.asarray(index_B, dtype=np.int64)
        # As unsigned numbers negative ones are the largest: one look tells whether all are inside.
        if index_B.size and index_B.view(np.uint64).max() < len(self._position_of):
            if self._is_range:
                return index_B
            found_B = self._position_of[index_B]
            if found_B.min() >= 0:
                return found_B.astype(np.int64)
        positions_B = np.searchsorted(self.index_N, index_B).clip(max=self.num_samples - 1)
        unknown = index_B[self.index_N[positions_B] != index_B]
        if unknown.size:
            raise MissingTargets(
                f"{self.address} holds no targets for {unknown.size} of the samples asked for "
                f"(first: {unknown[0]}); it holds {self.num_samples} samples of "
                f"{self.manifest.dataset['name']} ({self.manifest.dataset['split']}). Ask for "
                "these only (--samples), or precompute another store"
            )
        return positions_B

    def expect(self, chunks: Iterable[tuple[StoredMentor, int, int]]) -> None:
        """A hint: these (targets, view, block) will be read next, in this order.

        Those of a store at a URL are fetched ahead; of any other nothing is done. What was expected
        before and is not among them is expected no longer.
        """
        if self.remote is not None:
            self.remote.expect(
                (stored.array.chunk(view, block), stored.commits[view, block])
                for stored, view, block in chunks
                if (view, block) in stored.commits
            )

    def chunk_bytes(self, mentor: str, kind: str | None = None) -> int:
        """Bytes of one of a mentor's chunks in memory, still encoded."""
        stored = self.mentor(mentor, kind)
        return chunk_bytes(self.manifest, stored.encoder, stored.row_shape)

    @overload
    def targets(
        self,
        view: int,
        index: NDArray[np.int64],
        mentors: Sequence[str] | None = None,
        kind: Literal["logits", "logsumexp", "heatmaps", "keypoints"] | None = None,
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
        kind: str | None = None,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], ...]:
        """Targets as decoded, of mentors in the order asked: float32.

        `kind`: "logits": log-probabilities (B, M, C); "logsumexp": (B, M), which added to them give
        the raw logits; "features": a tuple of M arrays (B, F), each mentor's as wide as its own;
        "heatmaps": (B, M, J, H, W); "keypoints": (B, M, J, 3), x and y in the view's pixels and a
        score. None: the store's primary kind, logits or heatmaps.
        For looking and checking; training uses `TargetStream`. Raises MissingTargets.
        """
        kind = kind or self.manifest.primary.name
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
        row_shape = find_kind(kind).row_shape(self.manifest.described)
        rows_BM = np.empty((len(positions_B), len(chosen), *row_shape), dtype=np.float32)
        for column, stored in enumerate(chosen):
            decode_into(rows_BM[:, column], self, stored, view, positions_B)
        return rows_BM


def _mentor_folders(root: Path) -> list[Path]:
    """The folders of mentors, alphabetical; not hidden ones, nor those never finished."""
    names = [name for name in listed(root / "mentors") if not name.startswith(".")]
    folders = [root / "mentors" / name for name in names]
    return [folder for folder in folders if folder.is_dir() and is_made(folder)]
