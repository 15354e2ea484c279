"""Folders in object stores, and whatever else fsspec reads.

An object appears whole or not at all: one request puts it, or one completes its parts.
"""

from pathlib import Path
from typing import Any

from kdcache.remote import waiting
from kdcache.remote.folder import MOST_READ, Arriving, Content, Folder, as_bytes, read_only

PIECE = 2**24  # bytes asked for, or of a large file written, at once
PARTS = 2  # of a large file, on their way at once
_WRITTEN = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
_NO_MORE = frozenset({"InvalidRange", "416"})


class ObjectFolder(Folder):
    def __init__(self, address: str, filesystem: Any, root: str) -> None:
        super().__init__(address)
        self._filesystem, self._root = filesystem, root
        protocol = filesystem.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def fetch(self, name: str, arriving: Arriving) -> None:
        while True:
            most = arriving.most + 1 - arriving.got
            # Never a piece that begins at the end of a whole file: servers refuse to send nothing.
            asked = most if arriving.expected is None or most <= PIECE + 1 else PIECE
            start = arriving.got
            try:
                part = self._call("cat_file", self._path(name), start=start, end=start + asked)
            except OSError as error:
                if not _is_past_end(error):
                    raise
                return  # it is empty, or shorter than expected
            arriving.write(part)
            if len(part) < asked:
                return

    def listing(self, folder: str) -> dict[str, int | None]:
        path = self._path(folder).rstrip("/")
        found: dict[str, int | None] = {}
        for entry in self._call("ls", path, detail=True):
            parent, _, name = str(entry["name"]).rstrip("/").rpartition("/")
            if parent.strip("/") == path.strip("/") and name:  # else the marker of a folder
                is_file = entry["type"] == "file" and not str(entry["name"]).endswith("/")
                found[name] = entry["size"] if is_file else None
        return found

    def put(self, name: str, content: Content) -> None:
        parts = self._in_parts()
        if parts is not None and isinstance(content, Path) and content.stat().st_size > MOST_READ:
            self._call("put_file", str(content), self._path(name), **parts)
        else:
            self._call("pipe_file", self._path(name), bytes(as_bytes(content)))

    def require_writable(self) -> None:
        if not self._protocols & _WRITTEN:
            raise read_only(self.address, "its protocol is not known to make files appear whole")

    def _in_parts(self) -> dict[str, int] | None:
        """How a file is written part by part, where the protocol's library can do that."""
        if self._protocols & {"s3", "s3a"}:
            return {"chunksize": PIECE, "max_concurrency": PARTS}
        return {"chunksize": PIECE} if self._protocols & {"gs", "gcs"} else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        if not self._filesystem.async_impl:
            return getattr(self._filesystem, method)(*arguments, **options)
        work = getattr(self._filesystem, f"_{method}")(*arguments, **options)
        return waiting.run(work, self.is_stopped)


def _is_past_end(error: OSError) -> bool:
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") in _NO_MORE
