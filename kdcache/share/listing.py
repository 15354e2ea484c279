"""Listing a hub: one request, and nothing that needs torch."""

import os

from kdcache.errors import UsageError
from kdcache.remote import Connection
from kdcache.store.hub_documents import HubIndex, read_index_document


def list_hub(place: str) -> HubIndex:
    """What the hub at a URL or in a folder holds. Raises StoreError where there is no hub."""
    index = read_index_document(Connection(place))
    if index is None:
        from kdcache.share.hub import Hub  # it says what is there instead

        return Hub(place).index()
    return index


def default_hub(given: str | None) -> str:
    """`given`, else `$KDCACHE_HUB`. Raises UsageError where there is neither."""
    place = given or os.environ.get("KDCACHE_HUB")
    if not place:
        raise UsageError("name a hub: a URL or a shared folder, as argument or in $KDCACHE_HUB")
    return place
