"""Folders behind SSH. One connection carries all threads' files."""

import asyncio
import errno
import logging
import os
import posixpath
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from kdcache import durable
from kdcache.remote import waiting
from kdcache.remote.folder import Arriving, Content, Folder, as_bytes

_PIECE = 2**22  # bytes asked for or sent at once; they travel as many small requests
_SILENCE = 15  # seconds without a byte, after which the server is asked whether it is there
_RDONLY = 1  # of statvfs


class SftpFolder(Folder):
    """`sftp://[USER@]HOST[:PORT]/absolute/path`; keys, agent and ~/.ssh/config as ssh has them.

    A host is believed when its key is in ~/.ssh/known_hosts, and refused otherwise.
    """

    def __init__(self, address: str, url: str) -> None:
        import asyncssh

        super().__init__(address)
        parts = urlsplit(url)
        self._root = unquote(parts.path).rstrip("/")
        given = {"port": parts.port, "username": parts.username, "password": parts.password}
        self._options: dict[str, Any] = {
            "host": parts.hostname or "",
            "known_hosts": (),  # those of the user and of the machine
            "connect_timeout": 30,
            "login_timeout": 60,
            "keepalive_interval": _SILENCE,
            "compression_algs": None,
        }
        for name, value in given.items():
            if value is not None:
                self._options[name] = unquote(value) if isinstance(value, str) else value
        self._asyncssh = asyncssh
        logging.getLogger("asyncio").addFilter(_is_news)
        self._connecting = asyncio.Lock()
        self._connection: Any = None
        self._client: Any = None
        self._made: set[str] = set()

    def fetch(self, name: str, arriving: Arriving) -> None:
        self._run(self._fetch(self._path(name), arriving))

    def listing(self, folder: str) -> dict[str, int | None]:
        found: dict[str, int | None] = self._run(self._listing(self._path(folder)))
        return found

    def put(self, name: str, content: Content) -> None:
        self._run(self._put(self._path(name), as_bytes(content)))

    def require_writable(self) -> None:
        """The protocol can write."""

    async def _fetch(self, path: str, arriving: Arriving) -> None:
        client = await self._connected()
        async with await client.open(path, "rb") as file:
            while True:
                asked = min(_PIECE, arriving.most + 1 - arriving.got)
                part = await file.read(asked, arriving.got)
                arriving.write(part)
                if len(part) < asked:
                    return

    async def _listing(self, path: str) -> dict[str, int | None]:
        client = await self._connected()
        found: dict[str, int | None] = {}
        async for entry in client.scandir(path or "/"):
            kind = entry.attrs.type
            if kind == self._asyncssh.FILEXFER_TYPE_DIRECTORY and entry.filename not in (".", ".."):
                found[entry.filename] = None
            elif kind == self._asyncssh.FILEXFER_TYPE_REGULAR:
                found[entry.filename] = entry.attrs.size
        return found

    async def _put(self, path: str, content: memoryview) -> None:
        client = await self._connected()
        folder, name = posixpath.split(path)
        aside = posixpath.join(folder, durable.aside_name(name))
        try:
            if folder not in self._made:
                await client.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            try:
                async with await client.open(aside, "xb") as file:
                    for start in range(0, len(content), _PIECE):
                        await file.write(bytes(content[start : start + _PIECE]))
                    with suppress(self._asyncssh.SFTPOpUnsupported):
                        await file.fsync()
                await client.posix_rename(aside, path)
            except BaseException:
                with suppress(Exception):
                    await client.remove(aside)
                raise
        except self._asyncssh.SFTPFailure as error:  # all that SFTP says of most failures
            raise await self._failure(client, folder, len(content), error) from error

    async def _failure(self, client: Any, folder: str, num_bytes: int, error: Exception) -> OSError:
        """Which of its reasons a failure to write has, as far as the server tells."""
        with suppress(Exception):
            while not await client.exists(folder) and folder not in ("", "/"):
                folder = posixpath.dirname(folder)
            if not await client.isdir(folder):
                return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
            disk = await client.statvfs(folder)
            if disk.flags & _RDONLY:
                return OSError(errno.EROFS, os.strerror(errno.EROFS))
            if disk.bavail * disk.frsize <= num_bytes or disk.favail == 0 < disk.files:
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return OSError(f"the server reports: {error}")

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                self._connection = await self._asyncssh.connect(**self._options)
                self._client = await self._connection.start_sftp_client()
            return self._client

    def _run(self, work: Any) -> Any:
        return waiting.run(self._translated(work), self.is_stopped)

    async def _translated(self, work: Any) -> Any:
        asyncssh, before = self._asyncssh, self._client
        try:
            return await work
        except asyncssh.SFTPNoSuchFile as error:
            self._made.clear()
            raise FileNotFoundError(errno.ENOENT, error.reason) from error
        except asyncssh.SFTPPermissionDenied as error:
            raise PermissionError(errno.EACCES, error.reason) from error
        except (asyncssh.Error, ConnectionError, TimeoutError) as error:
            if not isinstance(error, asyncssh.SFTPFailure):
                self._lost(before or self._client)
            raise

    def _lost(self, client: Any) -> None:
        """The next attempt connects anew, unless another has done so already."""
        if client is not None and client is self._client:
            self._connection.abort()
            self._connection = self._client = None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _is_news(record: logging.LogRecord) -> bool:
    """Not what asyncssh's own tasks meet when a connection is cut: whoever waits is told anyway."""
    error = record.exc_info[1] if record.exc_info else None
    return (
        not type(error).__module__.startswith("asyncssh")
        and record.msg != "socket.send() raised exception."
    )
