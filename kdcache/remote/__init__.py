"""Files at a URL, by any protocol that fsspec speaks, and the local mirror that they are kept in.

What a store is, only `kdcache.store` knows: here are names, sizes and checksums.
"""

from kdcache.remote.address import folder_of, is_url, mirror_name, shown_url
from kdcache.remote.arriving import (
    ArrivingDocument,
    ArrivingFile,
    LocalFailure,
    TooLarge,
    sounds_like_a_page,
)
from kdcache.remote.connection import CONNECTIONS, Connection
from kdcache.remote.fetching import ChunkFetcher, WantedChunk, WrongChunk, fetch_chunk, require_size
from kdcache.remote.folder import Content, NotListed, NotThere
from kdcache.remote.in_flight import most_at_once, moved_at_once
from kdcache.remote.mirror_space import MirrorSpace, most_mirrored
from kdcache.remote.waiting import interrupt

__all__ = [
    "CONNECTIONS",
    "ArrivingDocument",
    "ArrivingFile",
    "ChunkFetcher",
    "Connection",
    "Content",
    "LocalFailure",
    "MirrorSpace",
    "NotListed",
    "NotThere",
    "TooLarge",
    "WantedChunk",
    "WrongChunk",
    "fetch_chunk",
    "folder_of",
    "interrupt",
    "is_url",
    "mirror_name",
    "most_at_once",
    "most_mirrored",
    "moved_at_once",
    "require_size",
    "shown_url",
    "sounds_like_a_page",
]
