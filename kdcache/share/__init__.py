"""Hubs: where a team's stores and mentors are shared, at any URL that fsspec knows, or in a folder.

push -> what the hub lacks of a store, then what all pushes have, gathered
pull -> `kdcache.copying`, from a store that is opened there
"""

from kdcache.share.hub import Hub, default_hub
from kdcache.share.local import local_stores
from kdcache.share.pushing import PushJob, PushResult, push_store

__all__ = ["Hub", "PushJob", "PushResult", "default_hub", "local_stores", "push_store"]
