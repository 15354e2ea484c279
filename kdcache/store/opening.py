"""Opening the store at a path, at a URL, or at a hub."""

import os
from pathlib import Path

from kdcache.errors import StoreError
from kdcache.remote import Connection, folder_of, is_url
from kdcache.store.hub_documents import HubIndex, read_index_document
from kdcache.store.hub_layout import HUB_MARKER, HubAddress, parse_address
from kdcache.store.remote_folder import NoStore, RemoteFolder
from kdcache.store.remote_hub_store import HubStore, NotAtHub
from kdcache.store.remote_store import RemoteStore
from kdcache.store.target_store import TargetStore


def open_store(
    path: str | os.PathLike[str], *, mirrors: Path | None = None, most_mirrored: int | None = None
) -> TargetStore:
    """Opens the store at a path or URL for reading. Raises StoreError when it is none.

    At a URL (http, https, s3, gs, sftp, hf, memory: any that fsspec knows) lies a store's folder, a
    hub's store (HUB/stores/FINGERPRINT, or how that begins), or a hub that holds one store. Its
    documents are read now, and chunks when they are needed, through a mirror in the user's cache
    folder (`mirrors`: another; `most_mirrored`: bytes of chunks in it) that later runs find again.
    A hub in a local folder is read the same way. Raises Unreachable when the network or the server
    fails for long.
    """
    elsewhere = _elsewhere(path)
    if elsewhere is not None:
        return _open_elsewhere(elsewhere, mirrors, most_mirrored)
    root = local_path(path)
    if not root.exists():
        raise StoreError(f"{root} does not exist. Make a store with `kdcache precompute --store`")
    return TargetStore(root)


def open_at_hub(place: str, connection: Connection) -> TargetStore:
    """As `open_store`, of a store at a hub whose folder is connected to already: connecting costs
    a tenth of a second and more, at object stores."""
    address = parse_address(_elsewhere(place) or place)
    if address is None:
        return open_store(place)
    return _open(HubStore(_in_full(address, connection), connection=connection))


def is_elsewhere(place: str | os.PathLike[str]) -> bool:
    """Whether a store's place is read through a mirror: a URL, or a hub in a folder."""
    return _elsewhere(place) is not None


def local_path(path: str | os.PathLike[str]) -> Path:
    """A store's folder, for those who write. Raises StoreError for a URL, and for a hub."""
    if is_url(path):
        raise StoreError(
            f"{path}: a store at a URL can be read, not written. Give --store a local or mounted "
            "folder; `kdcache push` copies it to a hub at a URL"
        )
    if is_elsewhere(path):
        raise StoreError(
            f"{path} is a hub's, which `kdcache push` writes and `kdcache pull` copies from. Name "
            "another folder for the store"
        )
    return folder_of(path)


def _elsewhere(place: str | os.PathLike[str]) -> str | None:
    """The URL of a place that is read through a mirror; None for a store's local folder."""
    if is_url(place):
        return str(place).rstrip("/")
    folder = folder_of(place)
    address = parse_address(str(folder))
    hub = folder if address is None else Path(address.hub)
    if not (hub / HUB_MARKER).is_file():
        return None
    tail = str(folder)[len(str(hub)) :]
    return hub.resolve().as_uri() + tail


def _open_elsewhere(url: str, mirrors: Path | None, most: int | None) -> TargetStore:
    address = parse_address(url)
    connection = Connection(url if address is None else address.hub)
    if address is not None:
        try:
            return _open(HubStore(_in_full(address, connection), mirrors, most, connection))
        except NotAtHub as error:
            try:
                return _open(RemoteFolder(url, mirrors, most))
            except NoStore:
                raise error from None
    try:
        return _open(RemoteFolder(url, mirrors, most))
    except NoStore as error:
        index = read_index_document(connection)
        if index is None:
            raise error from None
        return _open(HubStore(_only_store(index, url), mirrors, most, connection))


def _open(remote: RemoteStore) -> TargetStore:
    with remote.opened():
        return TargetStore(remote.root, remote=remote)


def _in_full(address: HubAddress, connection: Connection) -> HubAddress:
    """With the whole fingerprint. Raises NotAtHub where there is no hub."""
    if len(address.fingerprint) == 64:
        return address
    index = read_index_document(connection)
    if index is None:
        raise NotAtHub(f"{address.hub} is no hub: it has no index.json")
    found = index.find(address.fingerprint).fingerprint
    return HubAddress(hub=address.hub, fingerprint=found, variants=address.variants)


def _only_store(index: HubIndex, url: str) -> HubAddress:
    if len(index.stores) != 1:
        listed = "".join(
            f"\n  {url}/stores/{store.fingerprint[:16]}  {store.dataset} ({store.split}), "
            f"{', '.join(sorted({one.mentor for one in store.targets}))}"
            for store in list(index.stores.values())[:20]
        )
        raise StoreError(
            f"{url} is a hub of {len(index.stores)} stores; name one of them"
            + (f":{listed}" if listed else ", once somebody has pushed one")
        )
    return HubAddress(hub=url, fingerprint=next(iter(index.stores)))
