"""A store's two lists of samples: `index` (their permanent integers) and `labels`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache import untrusted
from kdcache.canonical import array_sha256
from kdcache.errors import DamagedTargets, StoreError
from kdcache.store.chunks import CHECKSUM_BYTES, crc32c
from kdcache.store.layout import METADATA, require_inside
from kdcache.store.manifest import Manifest
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, read_sealed
from kdcache.store.zarr_metadata import list_metadata
from kdcache.tasks import CLASSIFICATION


def list_path(root: Path, name: str) -> Path:
    """The one chunk of a list."""
    return root / name / "c" / "0"


def list_content(values_N: NDArray[np.int64]) -> bytes:
    """That chunk's bytes: raw little-endian rows, then their CRC32C."""
    rows = values_N.astype("<i8").tobytes()
    return rows + crc32c(rows).to_bytes(CHECKSUM_BYTES, "little")


def read_list(root: Path, name: str, manifest: Manifest) -> NDArray[np.int64]:
    """`index` or `labels`, int64 (N,), proven by the hash in the manifest.

    Raises DamagedTargets (a DamagedDocument, with path and reason).
    """
    metadata, chunk = root / name / METADATA, list_path(root, name)
    require_inside(root, chunk)
    try:
        document = read_sealed(metadata)
        document["attributes"]["kdcache"][SEAL] = BLANK
    except FileNotFoundError:
        raise DamagedDocument(metadata, "the file is gone") from None
    except (KeyError, TypeError) as error:
        raise DamagedDocument(metadata, "it is not the array it should be") from error
    if document != list_metadata(manifest.num_samples, {SEAL: BLANK}):
        raise DamagedDocument(metadata, "it is not the array it should be")
    values_N = _read_chunk(chunk, manifest.num_samples)
    if array_sha256(values_N) != manifest.dataset[f"{name}_sha256"]:
        raise DamagedDocument(chunk, "it is not the list the manifest was made with")
    _require_plausible(chunk, name, values_N, manifest)
    return values_N


def _read_chunk(chunk: Path, num_samples: int) -> NDArray[np.int64]:
    """What the one metadata accepted above says: raw little-endian rows, then their CRC32C."""
    expected = 8 * num_samples + CHECKSUM_BYTES
    try:
        found = chunk.lstat().st_size
        if found != expected:  # before memory is taken for it
            raise DamagedDocument(chunk, f"{found} bytes instead of {expected}")
        content = untrusted.read_bytes(chunk, most_bytes=expected, follow_links=False)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedDocument(chunk, "the file is gone") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in untrusted.UNREADABLE:
            raise
        raise DamagedDocument(chunk, f"it cannot be read ({error})") from error
    rows = memoryview(content)[:-CHECKSUM_BYTES]
    if crc32c(rows) != int.from_bytes(content[-CHECKSUM_BYTES:], "little"):
        raise DamagedDocument(chunk, "it cannot be read (its CRC32C is another's)")
    return np.frombuffer(rows, dtype="<i8").astype(np.int64)


def _require_plausible(
    chunk: Path, name: str, values_N: NDArray[np.int64], manifest: Manifest
) -> None:
    """Rows are found and labels are used as positions by what these lists say."""
    if name == "index" and not (values_N[0] >= 0 and (np.diff(values_N) > 0).all()):
        raise StoreError(f"{chunk}: sample integers must ascend from 0 up. No writer wrote this")
    if name != "labels" or manifest.dataset.get("task", CLASSIFICATION) != CLASSIFICATION:
        return  # ids of annotations are no positions
    if not (0 <= values_N.min() <= values_N.max() < _classes(manifest)):
        raise StoreError(
            f"{chunk}: labels must lie below {_classes(manifest)}. No writer wrote this"
        )


def _classes(manifest: Manifest) -> int:
    return int(manifest.dataset["num_classes"])


def list_damage(root: Path, name: str, manifest: Manifest) -> DamagedTargets | None:
    """What is wrong with a list; None when it is sound."""
    try:
        read_list(root, name, manifest)
    except DamagedTargets as error:
        return error
    return None
