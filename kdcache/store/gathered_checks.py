"""What an array out of a stranger's document must be, so that gathering it harms no other.

A gathered document is merged from several people's: one array that lies about whose it is, or that
no reader takes, would spoil what the others pushed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcache.canonical import json_sha256
from kdcache.encode import KINDS, Encoder, TargetKind, encoder_from_description
from kdcache.store.array_documents import chunk_bytes
from kdcache.store.chunks import can_hold
from kdcache.store.manifest import Manifest
from kdcache.store.plain import require_plain
from kdcache.store.sealed import is_crowded
from kdcache.store.zarr_metadata import targets_metadata

if TYPE_CHECKING:
    from kdcache.store.gathered import GatheredArray

MOST_ENTRIES = 1000  # of a mentor and its array's metadata; a writer makes 60
MOST_CHUNK_BYTES = 2**40  # that a record states; what is fetched has a bound of its own


def require_manifest(manifest: Manifest) -> None:
    """Raises ValueError for one that, written out again, no reader would take."""
    if is_crowded(json.dumps(asdict(manifest), indent=2).encode()):
        raise ValueError("its manifest is of lists and objects")


def require_array(array: "GatheredArray", manifest: Manifest) -> None:
    """Raises ValueError unless the array is what its identity says, of these views.

    Of a kind or encoder that is not known here, the identity alone can be proven.
    """
    if array.mentor["fingerprint"] != manifest.fingerprint:
        raise ValueError(f"mentor {array.name[:40]!r} is of other views")
    described = array.encoder
    stated = {"mentor": dict(array.mentor), "kind": array.kind, "encoder": dict(described)}
    if json_sha256(stated) != array.identity:
        raise ValueError(f"mentor {array.name[:40]!r} has another identity than is stated")
    require_plain("an encoder's name", described["name"])
    written = {"mentor": dict(array.mentor), "metadata": dict(array.metadata)}
    if json.dumps(written).count(",") > MOST_ENTRIES:  # without indents: those are written slowly
        raise ValueError(f"mentor {array.name[:40]!r} has more than {MOST_ENTRIES:,} entries")
    if is_crowded(json.dumps(written, indent=2).encode()):
        raise ValueError(f"mentor {array.name[:40]!r} is of lists and objects")
    if array.views != max((view + 1 for view, _ in array.records), default=1):
        raise ValueError(f"it states {array.views} views, its records another number")
    raw = _chunk_bytes(array, manifest)
    for record in array.records.values():
        fits = raw is None or can_hold(record.bytes, *raw)
        if record.block >= manifest.num_blocks or record.rows != manifest.num_rows(record.block):
            raise ValueError(f"a record states {record.rows} rows of block {record.block}")
        if not fits or record.bytes > MOST_CHUNK_BYTES:
            raise ValueError(f"a record states {record.bytes} bytes, which no chunk has")


def _chunk_bytes(array: "GatheredArray", manifest: Manifest) -> tuple[int, Encoder] | None:
    """Bytes of a chunk before compression, and its encoder; None for what is not known here.

    Raises ValueError for metadata that is not exactly what is written for such an array.
    """
    kind = KINDS.get(array.kind)
    if kind is None or array.encoder["name"] not in kind.encoders:
        return None
    encoder = encoder_from_description(array.encoder, manifest.dataset["num_classes"])
    row_shape = _row_shape(array.metadata, manifest, kind)
    shape = (array.views, manifest.num_samples, *encoder.stored_row(row_shape))
    attributes = {"kind": kind.name, "encoder": dict(array.encoder)}
    if array.metadata != targets_metadata(encoder, kind, shape, manifest.block, attributes):
        raise ValueError(f"the metadata of mentor {array.name[:40]!r} is not its array's")
    return chunk_bytes(manifest, encoder, row_shape), encoder


def _row_shape(
    metadata: Mapping[str, Any], manifest: Manifest, kind: TargetKind
) -> tuple[int, ...]:
    if not isinstance(metadata["shape"], list):
        raise ValueError("a shape must be a list")
    return kind.row_shape(manifest.described, *metadata["shape"][2:3])
