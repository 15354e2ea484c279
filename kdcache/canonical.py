"""One spelling for what gets hashed: canonical JSON, and SHA-256 of JSON values and arrays."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only and no NaN: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_sha256(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def array_sha256(array: "NDArray[np.generic]") -> str:
    """Hex SHA-256 of an array's little-endian C-order bytes (its shape and dtype are not part)."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return hashlib.sha256(little.tobytes()).hexdigest()
