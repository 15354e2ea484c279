"""Versions of what decides pixels and numbers, for manifests, run folders and error messages."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("kdcache", "torch", "torchvision", "numpy", "pillow", "zarr", "numcodecs")


def library_versions() -> dict[str, str]:
    """Installed versions by package name, and Python's."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
