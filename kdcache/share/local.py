"""The stores under `$KDCACHE_HOME`, listed as a hub's are."""

from contextlib import suppress

from kdcache import homes
from kdcache.errors import StoreError
from kdcache.store import TargetStore, is_store, open_store
from kdcache.store.gathered import GatheredStore, gather_array
from kdcache.store.hub_documents import HubIndex, ListedStore
from kdcache.store.hub_listing import list_store


def local_stores() -> tuple[HubIndex, dict[str, str]]:
    """What is there, and each one's folder by fingerprint; what cannot be opened is left out."""
    stores, places = {}, {}
    for root in sorted(homes.stores().glob("*")):
        with suppress(StoreError):
            if is_store(root):
                listed = listed_store(open_store(root))
                stores[listed.fingerprint], places[listed.fingerprint] = listed, str(root)
    return HubIndex(stores=stores), places


def listed_store(store: TargetStore) -> ListedStore:
    """A store as an index lists it."""
    arrays = [gather_array(stored, stored.commits) for stored in store.sound_targets]
    gathered = GatheredStore(
        manifest=store.manifest, arrays={array.identity: array for array in arrays}
    )
    return list_store(gathered, ())
