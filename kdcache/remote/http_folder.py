"""Folders of web servers, read only: answers are taken as they stream in."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import getproxies

from kdcache.errors import StoreError
from kdcache.remote import waiting
from kdcache.remote.address import shown_url
from kdcache.remote.arriving import ArrivingDocument, TooLarge
from kdcache.remote.failures import told
from kdcache.remote.folder import Arriving, Content, Folder, NotListed, read_only
from kdcache.remote.patience import most_silence

MOST_LISTING = 2**25  # bytes of a listing
_PIECES = 2**20  # bytes that wait in a connection until they are taken
_HREF = re.compile(rb"""href\s{0,9}=\s{0,9}["']([^"'<>\s]{1,500})["']""", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9._-]+/?")
_AGAIN = frozenset({408, 425, 429})


class HttpFolder(Folder):
    def __init__(self, address: str, filesystem: Any, root: str) -> None:
        super().__init__(address)
        self._filesystem, self._root = filesystem, root

    @staticmethod
    def options() -> dict[str, Any]:
        """What the file system must be made with."""
        from aiohttp import ClientTimeout

        # Lengths and ranges are of the files themselves, and no answer unpacks to more.
        client = {
            "timeout": ClientTimeout(total=None, sock_connect=30, sock_read=most_silence()),
            "auto_decompress": False,
            "read_bufsize": _PIECES,
            "headers": {"Accept-Encoding": "identity"},
            "trust_env": _has_surroundings(),
        }
        return {"client_kwargs": client}

    def fetch(self, name: str, arriving: Arriving) -> None:
        self._get(f"{self._root}/{name}", arriving)

    def listing(self, folder: str) -> dict[str, int | None]:
        """What the server's page of the folder links to, without sizes."""
        page = ArrivingDocument(MOST_LISTING)
        url = f"{self._root}/{folder}/" if folder else f"{self._root}/"
        try:
            self._get(url, page)
        except (StoreError, PermissionError) as error:
            raise NotListed(told(error)) from error
        except TooLarge as error:
            raise NotListed(f"its listing has more than {MOST_LISTING:,} bytes") from error
        return dict.fromkeys(_linked_names(bytes(page.content), url))

    def put(self, name: str, content: Content) -> None:
        self.require_writable()

    @property
    def tells_sizes(self) -> bool:
        return False

    def require_writable(self) -> None:
        raise read_only(self.address, "web servers do not take files")

    def _get(self, url: str, arriving: Arriving) -> None:
        waiting.run(_stream(self._filesystem, url, arriving), self.is_stopped)


def _has_surroundings() -> bool:
    """Whether there are proxies or a .netrc to heed, as other programs do.

    Asked once: aiohttp would look through the environment at each request.
    """
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return bool(getproxies().keys() & {"http", "https", "all"}) or netrc.exists()


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
