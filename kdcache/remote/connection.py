"""Reading the folder at a URL: files and names in it, tried again where the network fails."""

import asyncio
import concurrent.futures
import os
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin

from kdcache.errors import KdcacheError, Stopped, StoreError, Unreachable
from kdcache.remote.address import shown_url
from kdcache.remote.arriving import (
    ArrivingChunk,
    ArrivingDocument,
    ArrivingFile,
    LocalFailure,
    TooLarge,
)

CONNECTIONS = 8
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts
PROGRESS = 2**16  # bytes: an attempt that brought as many is no failed one
PIECES = 2**20  # bytes that wait in a connection until they are taken
PIECE = 2**24  # bytes asked for at once where answers are not streamed
MOST_LISTING = 2**25  # bytes of a listing over HTTP
MOST_NAMES = 2**20
_SILENCE = 60  # seconds without a byte, after which a connection is given up
_HREF = re.compile(rb"""href\s{0,9}=\s{0,9}["']([^"'<>\s]{1,500})["']""", re.IGNORECASE)
_AGAIN = frozenset({408, 425, 429})
_BUGS = (TypeError, AttributeError, NameError, NotImplementedError, ImportError, MemoryError)

Arriving = ArrivingDocument | ArrivingChunk | ArrivingFile


class NotThere(Exception):
    """The server says that there is no such file or folder."""


class NotListed(Exception):
    """The server does not list the folder; the message says what it answered."""


class Connection:
    """One folder at a URL. For several threads at once; a fork or a pickle connects anew.

    Whatever fails is tried again `len(WAITS)` times, after growing waits, from where it was cut
    where the server can do that. Raises Unreachable then; StoreError for what no waiting changes:
    a protocol that is not known or not installed, no permission.
    """

    def __init__(self, url: str) -> None:
        self.address = shown_url(url)
        self._url = url.rstrip("/") if not url.endswith("://") else url
        self._opened: tuple[Any, str] | None = None
        self._process = 0

    def fetch(self, name: str, arriving: Arriving) -> None:
        """A file's bytes. Raises NotThere, TooLarge."""
        self._persist(f"{self.address}/{name}", arriving, lambda: self._fetch(name, arriving))

    def names(self, folder: str) -> list[str]:
        """The names in a folder, of files and folders. Raises NotThere, NotListed."""
        found: list[str] = []

        def attempt() -> None:
            found[:] = self._list(folder)

        self._persist(f"{self.address}/{folder}", ArrivingDocument(0), attempt)
        if len(found) > MOST_NAMES:
            raise StoreError(f"{self.address}/{folder} lists more than {MOST_NAMES:,} names")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _persist(self, what: str, arriving: Arriving, attempt: Any) -> None:
        waits, before = list(WAITS), 0
        while True:
            try:
                return attempt()  # type: ignore[no-any-return]
            except LocalFailure as error:
                raise error.__cause__ or error from None
            except FileNotFoundError:
                raise NotThere(what) from None
            except PermissionError as error:
                raise StoreError(
                    f"{what}: the server refuses access ({_told(error)}). Ask its owner, or give "
                    "credentials as its protocol has it (environment, .netrc, user@ in the URL)"
                ) from error
            except (NotThere, NotListed, TooLarge, KdcacheError, *_BUGS):
                raise
            except ValueError as error:  # no address at all
                raise StoreError(f"{what} cannot be read: {_told(error)}") from error
            except Exception as error:  # each protocol's library has errors of its own
                if arriving.got >= before + PROGRESS:
                    waits = list(WAITS)
                before = arriving.got
                if not waits:
                    raise Unreachable(
                        f"{what} cannot be read ({_told(error)}), tried {len(WAITS) + 1} times. "
                        "What was fetched is kept; check the network and the server, then run the "
                        "same command again to go on"
                    ) from error
                time.sleep(waits.pop(0))

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None or self._process != os.getpid():
            self._opened, self._process = _connect(self._url, self.address), os.getpid()
        return self._opened

    def _fetch(self, name: str, arriving: Arriving) -> None:
        filesystem, root = self._filesystem()
        path = f"{root}/{name}"
        if _is_http(filesystem):
            _get(filesystem, path, arriving)
            return
        while True:
            most = arriving.most + 1 - arriving.got
            asked = most if arriving.expected is None else min(PIECE, most)
            part = filesystem.cat_file(path, start=arriving.got, end=arriving.got + asked)
            arriving.write(part)
            if len(part) < asked:
                return

    def _list(self, folder: str) -> list[str]:
        filesystem, root = self._filesystem()
        path = f"{root}/{folder}"
        if not _is_http(filesystem):
            entries: Iterable[str] = filesystem.ls(path, detail=False)
            return [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries]
        page = ArrivingDocument(MOST_LISTING)
        try:
            _get(filesystem, f"{path}/", page)
        except (StoreError, PermissionError) as error:
            raise NotListed(_told(error)) from error
        except TooLarge as error:
            raise NotListed(f"its listing has more than {MOST_LISTING:,} bytes") from error
        return _linked_names(bytes(page.content), f"{path}/")


def _connect(url: str, shown: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        if url.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            # Lengths and ranges are of the files themselves, and no answer unpacks to more.
            options["client_kwargs"] = {
                "timeout": ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE),
                "auto_decompress": False,
                "read_bufsize": PIECES,
                "headers": {"Accept-Encoding": "identity"},
                "trust_env": True,  # proxies and .netrc, as other programs have them
            }
        filesystem, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise StoreError(
            f"{shown} cannot be read: {error}. Install what URLs need with: "
            "pip install 'kdcache[remote]'"
        ) from error
    except ValueError as error:
        raise StoreError(
            f"{shown} cannot be read: {error}. URLs begin with http://, https://, s3://, gs://, "
            "sftp://, or another protocol of fsspec"
        ) from error
    return filesystem, str(path).rstrip("/")


def _is_http(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "http" in ((protocol,) if isinstance(protocol, str) else protocol)


def _get(filesystem: Any, url: str, arriving: Arriving) -> None:
    """A GET on fsspec's own thread; given up when the program ends, whatever the server does."""
    getting = asyncio.run_coroutine_threadsafe(_stream(filesystem, url, arriving), filesystem.loop)
    while not concurrent.futures.wait([getting], timeout=0.2).done:
        if is_ending():
            getting.cancel()
            raise Stopped("stopped while a file was fetched")
    getting.result()


def is_ending() -> bool:
    """Whether the program has ended, and Python only waits for threads that are still at work.

    There is no public way to ask: the main thread counts as alive until pools' threads are joined.
    """
    ending = getattr(threading, "_SHUTTING_DOWN", False)
    return bool(ending) or not threading.main_thread().is_alive()


async def _stream(filesystem: Any, url: str, arriving: Arriving) -> None:
    """A GET, as it comes; from where an earlier one was cut, where the server can do that."""
    session = await filesystem.set_session()
    start = arriving.got
    asked = {"Range": f"bytes={start}-"} if start else {}
    async with session.get(filesystem.encode_url(url), headers=asked, max_redirects=5) as answer:
        status = f"{answer.status} {answer.reason}"
        if answer.status in (404, 410):
            raise FileNotFoundError(status)
        if answer.status in (401, 403):
            raise PermissionError(f"it answered {status}")
        if answer.status >= 500 or answer.status in _AGAIN:
            raise OSError(f"it answered {status}")
        if start and (answer.status != 206 or not _begins_at(answer.headers, start)):
            arriving.restart()
            if answer.status != 200:
                raise OSError(f"it answered {status} to a request for the rest of a file")
        elif answer.status not in (200, 206):
            raise StoreError(f"{shown_url(url)}: the server answered {status}")
        async for part in answer.content.iter_any():
            arriving.write(part)
        whole = answer.content_length is not None or "Transfer-Encoding" in answer.headers
        if not whole and arriving.expected is not None and arriving.got < arriving.expected:
            raise OSError(f"it was cut after {arriving.got:,} bytes")


def _begins_at(headers: Any, start: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _linked_names(page: bytes, folder: str) -> list[str]:
    """What a page links to directly below its folder."""
    names = dict.fromkeys(match.decode("ascii", "replace") for match in _HREF.findall(page))
    below = []
    for name in names:
        with suppress(ValueError):  # no URL at all
            target = name if _PLAIN.fullmatch(name) else urljoin(folder, name)
            below.append(target.removeprefix(folder).removesuffix("/"))
    return list(dict.fromkeys(name for name in below if name and "/" not in name))


_PLAIN = re.compile(r"[A-Za-z0-9._-]+/?")


def _told(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, OSError | StoreError) else f"{type(error).__name__}: {text}"
