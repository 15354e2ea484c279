"""Which class of `Folder` a path or URL is, and what must be installed for it."""

import os
from typing import Any

from kdcache.errors import StoreError, UsageError
from kdcache.remote.address import folder_of, is_url
from kdcache.remote.folder import Folder
from kdcache.remote.patience import most_silence

_EXTRAS = {
    "http": "http",
    "https": "http",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "sftp": "ssh",
    "ssh": "ssh",
    "hf": "hf",
}
_S3 = {  # the connection's own patience is the only one
    "retries": {"total_max_attempts": 1, "mode": "standard"},
    "connect_timeout": 30,
    "max_pool_connections": 32,
}


def open_folder(place: str | os.PathLike[str], address: str) -> Folder:
    """The folder at a path or URL. `address`: how it is told. Raises StoreError."""
    if not is_url(place):
        from kdcache.remote.local_folder import LocalFolder

        return LocalFolder(folder_of(place).absolute())
    url = str(place)
    protocol = url.partition("://")[0]
    try:
        return _open(protocol, url, address)
    except UsageError:  # of $KDCACHE_PATIENCE
        raise
    except ImportError as error:
        extra = _EXTRAS.get(protocol, "remote")
        raise StoreError(
            f"{address} cannot be opened: {error}. Install what {protocol}:// needs with: "
            f"pip install 'kdcache[{extra}]'"
        ) from error
    except ValueError as error:
        raise StoreError(
            f"{address} cannot be opened: {error}. URLs begin with http://, https://, s3://, "
            "gs://, sftp://, hf://, or another protocol of fsspec"
        ) from error


def _open(protocol: str, url: str, address: str) -> Folder:
    if protocol in ("sftp", "ssh"):
        from kdcache.remote.sftp_folder import SftpFolder

        return SftpFolder(address, url)
    import fsspec

    from kdcache.remote.hf_folder import HfFolder
    from kdcache.remote.http_folder import HttpFolder
    from kdcache.remote.object_folder import ObjectFolder

    kind: type[HttpFolder] | type[ObjectFolder] = ObjectFolder
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("http", "https"):
        kind = HttpFolder
        options |= HttpFolder.options()
    elif protocol in ("s3", "s3a"):
        options["config_kwargs"] = {**_S3, "read_timeout": most_silence()}
    elif protocol == "hf":
        kind = HfFolder
    filesystem, root = fsspec.url_to_fs(url, **options)
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return kind(address, filesystem, str(root).rstrip("/"))
