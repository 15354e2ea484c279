"""A mentor's folder and the documents of its arrays: what they say, and the sizes that follow."""

from math import prod
from pathlib import Path

import numpy as np

from kdcache.encode import KINDS, Encoder, TargetKind, encoder_from_description
from kdcache.errors import StoreError
from kdcache.store.chunks import most_payload
from kdcache.store.layout import METADATA, ArrayLocation
from kdcache.store.manifest import Manifest, MentorManifest
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, read_sealed
from kdcache.store.zarr_metadata import targets_metadata


def is_made(group: Path) -> bool:
    """Whether a mentor's folder is one: its zarr.json comes last, so without it nothing is lost.

    Unless something is committed in it: then its zarr.json was lost.
    """
    return (group / METADATA).exists() or has_commits(group, "*/")


def kinds_in(group: Path, primary: TargetKind) -> list[TargetKind]:
    """The kinds of targets a mentor's folder has: the primary one, and others that were made."""
    return [
        kind
        for kind in KINDS.values()
        if kind is primary
        # Another primary kind is no part of the store, whatever lies there.
        or (
            not kind.primary
            and ((group / kind.name / METADATA).exists() or has_commits(group / kind.name))
        )
    ]


def has_commits(folder: Path, below: str = "") -> bool:
    """Whether anything is, or by its index was, committed in an array's folder.

    `below`: "*/" asks for any array of a mentor's folder.
    """
    return any(any(folder.glob(f"{below}{names}")) for names in ("commits/*.json", "commits.json"))


def mentor_array(root: Path, mentor: MentorManifest, kind: TargetKind) -> ArrayLocation:
    """Where a mentor's targets of one kind lie."""
    rank = len(kind.dimension_names)
    return ArrayLocation(root=root, mentor=mentor.name, kind=kind.name, row_rank=rank)


def read_array(
    array: ArrayLocation, manifest: Manifest, kind: TargetKind
) -> tuple[Encoder, tuple[int, ...], int]:
    """The encoder, shape of a row, and number of views of a mentor's array.

    Its zarr.json must be exactly the one written for them. Raises DamagedTargets when it is not
    what was written, StoreError for an array of another shape or an unknown encoder.
    """
    try:
        document = read_sealed(array.metadata)
    except FileNotFoundError:
        raise DamagedDocument(array.metadata, "the file is gone") from None
    try:
        described = document["attributes"]["kdcache"]["encoder"]
        views, _, *row = document["shape"]
        document["attributes"]["kdcache"][SEAL] = BLANK
        name = described["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{array.metadata} is not an array of targets ({error})") from error
    try:
        if name not in kind.encoders:
            raise ValueError(f"{kind.name} are not encoded so")
        encoder = encoder_from_description(described, manifest.dataset["num_classes"])
    except (TypeError, ValueError) as error:
        known = ", ".join(sorted(kind.encoders))
        raise StoreError(
            f"{array.metadata}: targets were encoded by {str(described)[:200]}, which this version "
            f"of kdcache cannot decode (it knows {known}): {str(error)[:200]}; use the version "
            "that wrote it"
        ) from None
    if type(views) is not int or not 1 <= views < 2**40:
        raise StoreError(f"{array.metadata} states {str(views)[:80]} views")
    try:
        row_shape = kind.row_shape(manifest.described, *row[:1])
    except ValueError as error:
        raise StoreError(f"{array.metadata} is not an array of {kind.name}: {error}") from None
    shape = (views, manifest.num_samples, *encoder.stored_row(row_shape))
    attributes = {"kind": kind.name, "encoder": described, SEAL: BLANK}
    expected = targets_metadata(encoder, kind, shape, manifest.block, attributes)
    different = [key for key in {*expected, *document} if expected.get(key) != document.get(key)]
    if different:
        key = min(different)
        raise StoreError(
            f"{array.metadata} is not the array the manifest is for: {key} is "
            f"{str(document.get(key))[:200]}, expected {str(expected.get(key))[:200]}"
        )
    return encoder, row_shape, views


def chunk_bytes(manifest: Manifest, encoder: Encoder, row_shape: tuple[int, ...]) -> int:
    """Bytes of one whole chunk before compression, of targets of a shape."""
    return manifest.block * prod(encoder.stored_row(row_shape)) * np.dtype(encoder.dtype).itemsize


def resident_bytes(manifest: Manifest, encoder: Encoder, row_shape: tuple[int, ...]) -> int:
    """Bytes of one block in memory, ready to be gathered from."""
    row = prod(encoder.resident_row(row_shape)) * np.dtype(encoder.dtype).itemsize
    labels = np.dtype(np.int64).itemsize if encoder.needs_labels else 0
    return manifest.block * (row + labels)


def loading_bytes(manifest: Manifest, encoder: Encoder, row_shape: tuple[int, ...]) -> int:
    """Bytes of the buffers that loading blocks takes beside these, at most."""
    raw = chunk_bytes(manifest, encoder, row_shape)
    return (most_payload(raw) if encoder.compression else 0) + (raw if encoder.unpacks else 0)
