"""Opening the store at a path, at a URL, or at a hub."""

import os
from pathlib import Path, PurePath
from typing import TypeVar

from kdcache.errors import StoreError, UsageError
from kdcache.remote import Connection, folder_of, is_url, shown_url
from kdcache.store.hub_documents import HubIndex, read_index_document
from kdcache.store.hub_layout import HUB_INDEX, HUB_MARKER, HubAddress, hub_of, parse_address
from kdcache.store.layout import METADATA
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
            f"{path}: a store at a URL can be read, not written. Name a local or mounted "
            "folder; `kdcache push` copies what is there to a hub at a URL"
        )
    if is_elsewhere(path):
        raise StoreError(
            f"{path} is a hub's, which `kdcache push` writes and `kdcache pull` copies from. Name "
            "the folder of a store that is no hub's"
        )
    return folder_of(path)


def _elsewhere(place: str | os.PathLike[str]) -> str | None:
    """The URL of a place that is read through a mirror; None for a store's local folder."""
    if is_url(place):
        return str(place).rstrip("/")
    folder = folder_of(place)
    hub, tail = split_place(folder)
    if hub == folder and not (folder / METADATA).exists():
        # A mistyped address of a hub's store is not made a store there.
        hub = Path(hub_of(folder.as_posix()) or hub)
        tail = folder.as_posix()[len(hub.as_posix()) :]
    if not (hub / HUB_MARKER).is_file():
        return None
    return hub.resolve().as_uri() + tail


_Place = TypeVar("_Place", bound=PurePath)


def split_place(folder: _Place) -> tuple[_Place, str]:
    """The hub's folder that a place may lie in by its form, and what follows it in a URL.

    A place of another form is a hub's folder itself.
    """
    spelt = folder.as_posix()  # other systems part names by other signs
    address = parse_address(spelt)
    hub = spelt if address is None else address.hub
    return type(folder)(hub), spelt[len(hub) :]


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
            _require_address(url)
            raise error from None
        return _open(HubStore(_only_store(index, url), mirrors, most, connection))


def _open(remote: RemoteStore) -> TargetStore:
    with remote.opened():
        return TargetStore(remote.root, remote=remote)


def _require_address(url: str) -> None:
    """Raises UsageError for what is meant as a hub's store, and no address of one."""
    hub = hub_of(url)
    index = None if hub is None else read_index_document(Connection(hub))
    if hub is not None and index is not None:
        raise UsageError(
            f"{shown_url(url)} is no address of a store at the hub {shown_url(hub)}: behind "
            "/stores/ comes its fingerprint, or at least 8 digits that begin it (and behind a +, "
            f"of an identity). There are {', '.join(name[:16] for name in index.stores) or 'none'}"
        )


def _in_full(address: HubAddress, connection: Connection) -> HubAddress:
    """With the whole fingerprint. Raises NotAtHub where there is no hub."""
    if len(address.fingerprint) == 64:
        return address
    index = read_index_document(connection)
    if index is None:
        raise NotAtHub(f"{shown_url(address.hub)} is no hub: it has no {HUB_INDEX}")
    found = index.find(address.fingerprint).fingerprint
    return HubAddress(hub=address.hub, fingerprint=found, variants=address.variants)


def _only_store(index: HubIndex, url: str) -> HubAddress:
    if len(index.stores) != 1:
        shown = shown_url(url)
        listed = "".join(
            f"\n  {shown}/stores/{store.fingerprint[:16]}  {store.dataset} ({store.split}), "
            f"{', '.join(sorted({one.mentor for one in store.targets}))}"
            for store in list(index.stores.values())[:20]
        )
        raise StoreError(
            f"{shown} is a hub of {len(index.stores)} stores; name one of them"
            + (f":{listed}" if listed else ", once somebody has pushed one")
        )
    return HubAddress(hub=url, fingerprint=next(iter(index.stores)))
