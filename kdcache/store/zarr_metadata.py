"""The Zarr v3 metadata of a store's groups and arrays: what is written, and all that is read.

Written here and not by a library, so that a reader can demand exactly this: a chunk is then the
raw rows, or their one Zstandard frame, whatever else Zarr's metadata could say.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np

from kdcache.encode import Encoder, TargetKind


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """The zarr.json of a Zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {"kdcache": attributes}}


def list_metadata(num_samples: int, attributes: dict[str, Any]) -> dict[str, Any]:
    """The zarr.json of `index` or `labels`: int64 (N,), one chunk."""
    return _array_metadata(
        (num_samples,), (num_samples,), "int64", 0, None, ("sample",), attributes
    )


def targets_metadata(
    encoder: Encoder,
    kind: TargetKind,
    shape: Sequence[int],
    block: int,
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """The zarr.json of a mentor's array; `shape` is (views, N, *stored row)."""
    compressor = None
    if encoder.compression == "zstd":
        level = {"level": encoder.zstd_level, "checksum": False}
        compressor = {"name": "zstd", "configuration": level}
    return _array_metadata(
        shape,
        (1, block, *shape[2:]),
        encoder.dtype,
        "NaN" if isnan(encoder.fill) else int(encoder.fill),
        compressor,
        ("view", "sample", *kind.dimension_names),
        attributes,
    )


def _array_metadata(
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    dtype: str,
    fill: int | str,
    compressor: dict[str, Any] | None,
    dimension_names: Sequence[str],
    attributes: dict[str, Any],
) -> dict[str, Any]:
    """The zarr.json of a Zarr v3 array whose chunks end in their CRC32C."""
    as_bytes: dict[str, Any] = {"name": "bytes"}
    if np.dtype(dtype).itemsize > 1:
        as_bytes["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [as_bytes, *([] if compressor is None else [compressor]), {"name": "crc32c"}],
        "dimension_names": list(dimension_names),
        "attributes": {"kdcache": attributes},
    }
