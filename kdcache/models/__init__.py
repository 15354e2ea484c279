"""Networks by name. Importing this loads no torch; `build_network` does, when it is called."""

from kdcache.models.names import (
    CLASSIFIER_NAMES,
    KNOWN_NAMES,
    SHORT_NAMES,
    build_network,
    long_name,
    short_name,
)
from kdcache.models.pose_names import POSE_NETWORKS
from kdcache.models.suitability import (
    OUTPUTS,
    Output,
    checked_forward,
    output_of,
    require_output,
)

__all__ = [
    "build_network",
    "checked_forward",
    "output_of",
    "require_output",
    "Output",
    "OUTPUTS",
    "long_name",
    "short_name",
    "KNOWN_NAMES",
    "CLASSIFIER_NAMES",
    "POSE_NETWORKS",
    "SHORT_NAMES",
]
