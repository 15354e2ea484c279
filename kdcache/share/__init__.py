"""Hubs: where a team's stores and mentors are shared, at any URL that fsspec knows, or in a folder.

push -> what the hub lacks of a store, then what all pushes have, gathered
pull -> `kdcache.copying`, from a store that is opened there

Each name is loaded when it is first used: to list a hub takes no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.share.hub import Hub
    from kdcache.share.listing import default_hub, list_hub
    from kdcache.share.local import local_stores
    from kdcache.share.pushing import PushJob, PushResult, push_store

_MODULE_OF = {
    "Hub": "hub",
    "PushJob": "pushing",
    "PushResult": "pushing",
    "default_hub": "listing",
    "list_hub": "listing",
    "local_stores": "local",
    "push_store": "pushing",
}

__all__ = [
    "Hub",
    "PushJob",
    "PushResult",
    "default_hub",
    "list_hub",
    "local_stores",
    "push_store",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"kdcache.share.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'kdcache.share' has no attribute {name!r}")
