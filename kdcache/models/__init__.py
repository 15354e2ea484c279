"""Networks by name. Importing this loads no torch; `build_network` does, when it is called."""

from kdcache.models.names import (
    KNOWN_NAMES,
    SHORT_NAMES,
    build_network,
    long_name,
    short_name,
)

__all__ = ["build_network", "long_name", "short_name", "KNOWN_NAMES", "SHORT_NAMES"]
