"""placeholder"""

from kdcache.store import TargetStore


def store_card(store: TargetStore) -> str:
    """Card."""
    return f"# {store.fingerprint}\n"
