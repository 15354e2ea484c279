"""The store: layout, manifest, commits, verify. The only code that writes chunks.

Each name is loaded when it is first used: to read a hub's index takes no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.store.array_documents import (
        chunk_bytes,
        loading_bytes,
        mentor_array,
        read_array,
        resident_bytes,
    )
    from kdcache.store.checked_files import CheckedFiles
    from kdcache.store.chunk_reading import (
        BlockLoader,
        chunk_reader,
        decode_into,
        decode_payload,
        read_block,
        require_files,
    )
    from kdcache.store.chunks import ChunkReader, DamagedChunk, chunk_payload, most_payload
    from kdcache.store.commit_record import ChunkKey, CommitRecord
    from kdcache.store.commits import STRANGER, gather_commits, write_commit_index
    from kdcache.store.committing import PreparedChunk, commit_chunk, publish_chunks
    from kdcache.store.healing import (
        healing_command,
        recipe_words,
        training_command,
        view_ranges,
    )
    from kdcache.store.layout import (
        CARD,
        FORMAT,
        METADATA,
        ArrayLocation,
        block_size,
        require_inside,
    )
    from kdcache.store.manifest import (
        Manifest,
        MentorManifest,
        read_manifest,
        read_mentor_manifest,
        require_equal,
    )
    from kdcache.store.opening import is_elsewhere, local_path, open_store
    from kdcache.store.payloads import RecordedPayload, commit_copy, prepare_copy, read_payload_of
    from kdcache.store.pruning import Pruned, PruneJob, prune_store
    from kdcache.store.remote_hub_store import HubStore
    from kdcache.store.replay_proof import dataset_at_hand, proven_dataset, require_replay
    from kdcache.store.spare_encoder import read_spare_encoder, stated_encoder
    from kdcache.store.store_writer import (
        LabelledSamples,
        ensure_mentor,
        ensure_store,
        is_damaged_store,
        is_store,
        new_manifest,
        open_damaged_store,
        refuse_foreign,
        stored_names,
        write_calibration,
    )
    from kdcache.store.stored_mentor import StoredMentor, stored_as, title
    from kdcache.store.target_commits import commit_targets, require_finite
    from kdcache.store.target_store import TargetStore
    from kdcache.store.tidying import forget_unused, keep_what_is_there, withdraw_strays
    from kdcache.store.verify import Damage, Verification, verify_store
    from kdcache.store.writers import explained, remove_leftovers, writing

_HOMES = {
    "array_documents": (
        "chunk_bytes",
        "loading_bytes",
        "mentor_array",
        "read_array",
        "resident_bytes",
    ),
    "checked_files": ("CheckedFiles",),
    "chunk_reading": (
        "BlockLoader",
        "chunk_reader",
        "decode_into",
        "decode_payload",
        "read_block",
        "require_files",
    ),
    "chunks": (
        "ChunkReader",
        "DamagedChunk",
        "chunk_payload",
        "most_payload",
    ),
    "commit_record": (
        "ChunkKey",
        "CommitRecord",
    ),
    "commits": (
        "STRANGER",
        "gather_commits",
        "write_commit_index",
    ),
    "committing": (
        "PreparedChunk",
        "commit_chunk",
        "publish_chunks",
    ),
    "healing": (
        "healing_command",
        "recipe_words",
        "training_command",
        "view_ranges",
    ),
    "layout": (
        "CARD",
        "FORMAT",
        "METADATA",
        "ArrayLocation",
        "block_size",
        "require_inside",
    ),
    "manifest": (
        "Manifest",
        "MentorManifest",
        "read_manifest",
        "read_mentor_manifest",
        "require_equal",
    ),
    "opening": (
        "is_elsewhere",
        "local_path",
        "open_store",
    ),
    "payloads": (
        "RecordedPayload",
        "commit_copy",
        "prepare_copy",
        "read_payload_of",
    ),
    "pruning": (
        "Pruned",
        "PruneJob",
        "prune_store",
    ),
    "remote_hub_store": ("HubStore",),
    "replay_proof": (
        "dataset_at_hand",
        "proven_dataset",
        "require_replay",
    ),
    "spare_encoder": (
        "read_spare_encoder",
        "stated_encoder",
    ),
    "store_writer": (
        "LabelledSamples",
        "ensure_mentor",
        "ensure_store",
        "is_damaged_store",
        "is_store",
        "new_manifest",
        "open_damaged_store",
        "refuse_foreign",
        "stored_names",
        "write_calibration",
    ),
    "stored_mentor": (
        "StoredMentor",
        "stored_as",
        "title",
    ),
    "target_commits": (
        "commit_targets",
        "require_finite",
    ),
    "target_store": ("TargetStore",),
    "tidying": (
        "forget_unused",
        "keep_what_is_there",
        "withdraw_strays",
    ),
    "verify": (
        "Damage",
        "Verification",
        "verify_store",
    ),
    "writers": (
        "explained",
        "remove_leftovers",
        "writing",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CARD",
    "FORMAT",
    "METADATA",
    "STRANGER",
    "ArrayLocation",
    "BlockLoader",
    "CheckedFiles",
    "ChunkKey",
    "ChunkReader",
    "CommitRecord",
    "Damage",
    "DamagedChunk",
    "HubStore",
    "LabelledSamples",
    "Manifest",
    "MentorManifest",
    "PreparedChunk",
    "Pruned",
    "PruneJob",
    "RecordedPayload",
    "StoredMentor",
    "TargetStore",
    "Verification",
    "block_size",
    "chunk_bytes",
    "chunk_payload",
    "chunk_reader",
    "commit_chunk",
    "commit_copy",
    "commit_targets",
    "dataset_at_hand",
    "decode_into",
    "decode_payload",
    "ensure_mentor",
    "ensure_store",
    "explained",
    "forget_unused",
    "gather_commits",
    "healing_command",
    "is_damaged_store",
    "is_elsewhere",
    "is_store",
    "keep_what_is_there",
    "loading_bytes",
    "local_path",
    "mentor_array",
    "most_payload",
    "new_manifest",
    "open_damaged_store",
    "open_store",
    "prepare_copy",
    "proven_dataset",
    "prune_store",
    "publish_chunks",
    "read_array",
    "read_block",
    "read_manifest",
    "read_mentor_manifest",
    "read_payload_of",
    "read_spare_encoder",
    "recipe_words",
    "refuse_foreign",
    "remove_leftovers",
    "require_equal",
    "require_files",
    "require_finite",
    "require_inside",
    "require_replay",
    "resident_bytes",
    "stated_encoder",
    "stored_as",
    "stored_names",
    "title",
    "training_command",
    "verify_store",
    "view_ranges",
    "withdraw_strays",
    "write_commit_index",
    "writing",
    "write_calibration",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"kdcache.store.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'kdcache.store' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
