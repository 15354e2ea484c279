"""Making, growing and healing a store's documents: one way for all three.

Every document is written whole or not at all, under the store's lock, and only where it is missing
or damaged. So a store that was half made, or lost a document, is completed by the same call that
makes a new one. Its group's zarr.json comes last: from then on the folder is a store.
"""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcache import durable, untrusted
from kdcache.datasets import ImageDataset
from kdcache.encode import LOGITS, Encoder, TargetKind, primary_kind
from kdcache.errors import DamagedTargets, StoreError, StoreMismatch
from kdcache.store.array_documents import is_made, kinds_in, mentor_array, read_array
from kdcache.store.commits import store_lock
from kdcache.store.layout import (
    CARD,
    FORMAT,
    LISTS,
    MEMBERS,
    METADATA,
    ArrayLocation,
    block_size,
    require_inside,
)
from kdcache.store.manifest import (
    Manifest,
    MentorManifest,
    fingerprint,
    read_attributes,
    read_manifest,
    read_mentor_manifest,
)
from kdcache.store.replay_proof import replay_checksums
from kdcache.store.sample_lists import list_content, list_damage, list_path
from kdcache.store.sealed import BLANK, MOST_BYTES, SEAL, write_sealed
from kdcache.store.spare_encoder import spare_damage
from kdcache.store.stored_mentor import stored_as
from kdcache.store.target_store import TargetStore
from kdcache.store.zarr_metadata import group_metadata, list_metadata, targets_metadata
from kdcache.versions import library_versions
from kdcache.views import Recipe


class LabelledSamples(Protocol):
    """Whoever knows a store's samples: a dataset, or another store of the same views."""

    @property
    def index_N(self) -> NDArray[np.int64]:
        """Their permanent integers, ascending."""
        ...

    def labels(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of these."""
        ...


def new_manifest(dataset: ImageDataset, recipe: Recipe) -> Manifest:
    """The manifest a store of these views has."""
    identity, described = dataset.identity(), recipe.describe()
    return Manifest(
        format=FORMAT,
        fingerprint=fingerprint(identity, described, recipe.seed),
        dataset=identity,
        recipe=described,
        view_seed=recipe.seed,
        block=block_size(len(dataset), primary_kind(identity).most_block),
        replay_proof=replay_checksums(dataset, recipe),
        written_by=library_versions(),
    )


def ensure_store(root: Path, manifest: Manifest, samples: LabelledSamples) -> list[Path]:
    """Makes a store without mentors, or what an existing one of these views lacks: the healed.

    A store of other views is left as it is. Raises StoreError when `root` holds something else,
    StoreMismatch when its manifest is damaged and its mentors were run over other views.
    """
    refuse_foreign(root)
    is_new = not ((root / METADATA).exists() or _sound_mentors(root))
    if not _lacking(root, manifest):
        return []  # without the lock, which a reader's folder does not take
    durable.make_folder(Path(os.path.realpath(root)))  # a link to an empty folder is filled there
    with store_lock(root):
        lacking = _lacking(root, manifest)
        if METADATA in lacking:
            _require_mentors_of(root, manifest)
        lists = {"index": samples.index_N, "labels": samples.labels(samples.index_N)}
        for name in LISTS:
            if name in lacking:
                _write_list(root, name, lists[name])
        if "mentors" in lacking:
            _write_document(root, root / "mentors" / METADATA, group_metadata({SEAL: BLANK}))
        if METADATA in lacking:
            _write_document(root, root / METADATA, manifest.document())
    return [] if is_new else [root / name for name in sorted(lacking)]


def _lacking(root: Path, manifest: Manifest) -> set[str]:
    """Members of a store of these views that are missing or damaged; none of another store's."""
    lacking = set()
    if (root / METADATA).exists():  # asked first: another writer may be about to make it
        try:
            if read_manifest(root).fingerprint != manifest.fingerprint:
                return set()
        except DamagedTargets:
            lacking.add(METADATA)
    else:
        lacking.add(METADATA)
    lacking |= {name for name in LISTS if list_damage(root, name, manifest) is not None}
    if _is_damaged(root / "mentors" / METADATA):
        lacking.add("mentors")
    return lacking


def ensure_mentor(
    root: Path,
    manifest: Manifest,
    mentor: MentorManifest,
    encoder: Encoder,
    kind: TargetKind,
    views: int,
    width: int | None = None,
) -> list[Path]:
    """Makes an empty array for a mentor, or declares more views, or heals documents: the healed.

    Arrays only grow. A mentor that is there and sound stays as it is, whatever it is. The primary
    kind comes first: a mentor is one from when it has that. `width`: as `TargetKind.row_shape`
    has it.
    """
    array = mentor_array(root, mentor, kind)
    if _views_declared(array, manifest, kind) >= views:
        return []  # without the lock, which a reader's folder does not take
    row = kind.row_shape(manifest.described, width)
    with store_lock(root):
        if not is_made(array.group):
            _write_array(array, manifest, encoder, kind, (views, row))
            _write_document(root, array.group / METADATA, mentor.document())  # from now on it is
            return []
        healed = []
        if _is_damaged(array.group / METADATA):
            _write_document(root, array.group / METADATA, mentor.document())
            healed.append(array.group / METADATA)
        try:
            stated, row_there, there = read_array(array, manifest, kind)
        except DamagedTargets:
            if kind in kinds_in(array.group, manifest.primary):
                healed.append(array.metadata)
            found = stored_as(mentor, encoder, row, views, manifest, kind, array)
            views = max(views, found.committed_views)
            _write_array(array, manifest, encoder, kind, (views, row))
        else:
            if spare_damage(array, stated) is not None:
                healed.append(array.spare_encoder)
            if there < views:
                _write_array(array, manifest, stated, kind, (views, row_there))
            else:
                _write_spare(array, stated)
    return healed


def write_calibration(root: Path, mentor: str, calibration: dict[str, Any]) -> None:
    """Records what encoders cost a mentor's logits when its own was chosen, for people."""
    array = ArrayLocation(root=root, mentor=mentor, kind=LOGITS.name)
    with store_lock(root):
        if not array.calibration.exists():
            _write_document(root, array.calibration, {**calibration, SEAL: BLANK})


def _write_array(
    array: ArrayLocation,
    manifest: Manifest,
    encoder: Encoder,
    kind: TargetKind,
    size: tuple[int, tuple[int, ...]],
) -> None:
    """`size`: views, and the shape of a row."""
    views, row = size
    _write_spare(array, encoder)  # before any array says that it is encoded so
    attributes = {"kind": kind.name, "encoder": encoder.describe(), SEAL: BLANK}
    shape = (views, manifest.num_samples, *encoder.stored_row(row))
    document = targets_metadata(encoder, kind, shape, manifest.block, attributes)
    _write_document(array.root, array.metadata, document)


def _write_spare(array: ArrayLocation, encoder: Encoder) -> None:
    if spare_damage(array, encoder) is not None:
        spare = {"encoder": encoder.describe(), SEAL: BLANK}
        _write_document(array.root, array.spare_encoder, spare)


def _views_declared(array: ArrayLocation, manifest: Manifest, kind: TargetKind) -> int:
    """Views of a mentor whose documents are sound; 0 for another."""
    if _is_damaged(array.group / METADATA):
        return 0
    try:
        encoder, _, views = read_array(array, manifest, kind)
    except DamagedTargets:
        return 0
    return views if spare_damage(array, encoder) is None else 0


def refuse_foreign(root: Path) -> None:
    """Raises StoreError when `root` is a file, or a folder with something else than a store."""
    if not root.exists() or is_store(root) or _sound_mentors(root):
        return
    names = (
        {name for name in os.listdir(root) if not name.startswith(".")} if root.is_dir() else {"-"}
    )
    if (
        names != {CARD}
        and names <= MEMBERS | {CARD}
        and (METADATA not in names or _mentions_us(root / METADATA))
    ):
        return
    raise StoreError(
        f"{root} exists and is not a kdcache store; name a new or empty folder for one"
    )


def _mentions_us(metadata: Path) -> bool:
    """Whether what is left of a zarr.json is of one of our stores."""
    try:
        return b"kdcache" in untrusted.read_bytes(
            metadata, most_bytes=MOST_BYTES, follow_links=False
        )
    except (OSError, ValueError):
        return False


def is_store(path: Path) -> bool:
    """Whether `path` is one of our stores, of any format, with a sound manifest."""
    try:
        return "format" in read_attributes(path / METADATA)
    except StoreError:
        return False


def is_damaged_store(path: Path) -> bool:
    """Whether `path` is a store whose manifest is missing or damaged."""
    return not is_store(path) and bool(_sound_mentors(path))


def open_damaged_store(root: Path, manifest: Manifest) -> TargetStore:
    """A store whose own manifest is missing or damaged, read as if it had this one.

    Raises StoreMismatch when its mentors were run over other views.
    """
    _require_mentors_of(root, manifest)
    return TargetStore(root, manifest)


def stored_names(root: Path) -> list[str]:
    """The mentors of a store, whatever its manifest says; those whose own document is sound."""
    return [mentor.name for mentor in _sound_mentors(root)]


def _sound_mentors(root: Path) -> list[MentorManifest]:
    found = []
    for metadata in sorted((root / "mentors").glob(f"*/{METADATA}")):
        try:
            found.append(read_mentor_manifest(metadata))
        except StoreError:
            continue
    return found


def _require_mentors_of(root: Path, manifest: Manifest) -> None:
    """A manifest may only be made anew for the views that the mentors there were run over."""
    for mentor in _sound_mentors(root):
        if mentor.fingerprint != manifest.fingerprint:
            raise StoreMismatch(
                f"the manifest of the store {root} is damaged, and this command cannot make it "
                f"anew: mentor {mentor.name!r} there was run over the views {mentor.fingerprint}, "
                f"this command's are {manifest.fingerprint}. Give the options the store was made "
                "with (--dataset, --split, --samples, --recipe, --view-seed)"
            )


def _is_damaged(metadata: Path) -> bool:
    try:
        read_attributes(metadata)
    except StoreError:
        return True
    return False


def _write_document(root: Path, path: Path, document: dict[str, Any]) -> None:
    require_inside(root, path.parent)
    write_sealed(path, document, within=root)


def _write_list(root: Path, name: str, values_N: NDArray[np.int64]) -> None:
    chunk = list_path(root, name)
    require_inside(root, chunk.parent)
    durable.write_file(chunk, list_content(values_N), within=root)
    document = list_metadata(len(values_N), {SEAL: BLANK})
    _write_document(root, root / name / METADATA, document)
