"""Networks by name. Importing this loads no torch; `build_network` does, when it is called."""

from kdcache.models.names import (
    KNOWN_NAMES,
    SHORT_NAMES,
    build_network,
    long_name,
    short_name,
)
from kdcache.models.suitability import checked_forward

__all__ = [
    "build_network",
    "checked_forward",
    "long_name",
    "short_name",
    "KNOWN_NAMES",
    "SHORT_NAMES",
]
