"""The store: layout, manifest, commits. The only code that writes chunks."""

from kdcache.store.commits import CommitRecord, commit_chunk, write_commit_index
from kdcache.store.layout import FORMAT, ArrayLocation
from kdcache.store.manifest import Manifest, MentorManifest, read_manifest, require_equal
from kdcache.store.replay_proof import require_replay
from kdcache.store.store_writer import add_mentor, create_store, grow_views, new_manifest
from kdcache.store.target_store import (
    StoredMentor,
    TargetStore,
    is_intact,
    is_store,
    local_path,
    open_store,
)

__all__ = [
    "FORMAT",
    "ArrayLocation",
    "CommitRecord",
    "Manifest",
    "MentorManifest",
    "StoredMentor",
    "TargetStore",
    "add_mentor",
    "commit_chunk",
    "create_store",
    "grow_views",
    "is_intact",
    "is_store",
    "local_path",
    "new_manifest",
    "open_store",
    "read_manifest",
    "require_equal",
    "require_replay",
    "write_commit_index",
]
