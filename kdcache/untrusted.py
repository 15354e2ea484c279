"""Small files that others wrote, read with suspicion: whole, regular, of a stated size, plain.

Stores, checkpoints and their sidecars travel between people. A file of theirs may be a FIFO on
which reading waits for ever, a link to somewhere else, as large as the disk, or text made to
exhaust a parser. Every reason for a refusal is a `ValueError` whose text follows "PATH: ".

Memory: `read_bytes` takes the file's size, `read_json` at most 64 times that (39 measured, for
`[[[]],[[]],..`), both plus a constant.
"""

import codecs
import errno
import io
import json
import math
import os
import stat
from collections.abc import Container
from typing import Any

MOST_NESTED = 100  # lists and objects inside one another
MOST_DIGITS = 20  # of an integer: 2**64 has as many

# What a file itself can be at fault for; permissions, open files and memory are the reader's.
UNREADABLE = frozenset(
    {errno.EIO, errno.EBADMSG, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ELOOP, errno.ENOTDIR}
)

# Windows has neither FIFOs in folders nor these flags.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for its writer
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_bytes(
    path: str | os.PathLike[str], *, most_bytes: int, follow_links: bool = True
) -> bytes:
    """A regular file of at most `most_bytes`; it never waits, whatever lies there.

    `follow_links=False` refuses a link as the last part of the path, not in the folders before it.

    Raises ValueError for anything but such a file, OSError for one that is missing or cannot be
    read.
    """
    descriptor, size = _open(path, follow_links)
    try:
        if size > most_bytes:
            raise ValueError(_too_large(size, most_bytes))
        data = os.read(descriptor, size + 1)
        if len(data) != size:  # it grows or shrinks, or lies in /proc, where all have 0 bytes
            data = _rest(descriptor, data, most_bytes)
        return data
    finally:
        os.close(descriptor)


def open_file(path: str | os.PathLike[str], *, follow_links: bool = True) -> io.BufferedReader:
    """A regular file of any size, open for reading. Raises as `read_bytes` does."""
    return os.fdopen(_open(path, follow_links)[0], "rb")


def open_unbuffered(path: str | os.PathLike[str], *, follow_links: bool = True) -> io.FileIO:
    """As `open_file`; every read asks the system, straight into the caller's memory."""
    return os.fdopen(_open(path, follow_links)[0], "rb", buffering=0)


def read_json(path: str | os.PathLike[str], *, most_bytes: int, follow_links: bool = True) -> Any:
    """The value of a JSON file: RFC 8259, where Python's own reader takes more.

    Refused beyond what `read_bytes` refuses: text that is not UTF-8, not JSON, nested more than
    100 deep, NaN, Infinity and numbers that overflow to it, one key twice in an object, integers
    of more than 20 digits, half a surrogate pair.

    Raises ValueError, and OSError as `read_bytes` does.
    """
    return parse_json(read_bytes(path, most_bytes=most_bytes, follow_links=follow_links))


def parse_json(data: bytes, *, without: Container[str] = (), any_number: bool = False) -> Any:
    """JSON text as `read_json` takes it. Raises ValueError as that does.

    `without`: keys whose values are let go as soon as they are read, in every object.
    `any_number`: NaN, infinity and integers of up to 4,300 digits are taken, which is twice as
    fast for a file of numbers; what holds them is then the caller's to name.
    """
    decoder = _DECODER if not (without or any_number) else _decoder(without, any_number)
    try:
        value = decoder.decode(data.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start:,})") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if data.count(b"[") + data.count(b"{") > MOST_NESTED:
        refuse_deep(value)
    if b"\\u" in data:
        refuse_half_characters(value)
    return value


def refuse_deep(value: Any) -> None:
    """Raises ValueError for lists and dicts more than `MOST_NESTED` deep, however much deeper."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_NESTED + 1):
        if not level:
            return
        inside = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [item for items in inside for item in items if isinstance(item, (dict, list))]
    raise ValueError(_TOO_DEEP)


def finite_float(text: str) -> float:
    """A number's text as a float. Raises ValueError for NaN and infinity, however spelt."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has a number that is not finite: {text[:40]}")
    return value


def refuse_half_characters(value: Any) -> None:
    """Raises ValueError for text that no file, terminal or hash can take."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it has text with half a surrogate pair") from None


_TOO_DEEP = f"it is nested more than {MOST_NESTED} deep"


def _open(path: str | os.PathLike[str], follow_links: bool) -> tuple[int, int]:
    """A descriptor of a regular file, and the file's size."""
    if not follow_links and not _NO_FOLLOW and os.path.islink(path):
        raise ValueError("it is a link")
    try:
        descriptor = os.open(path, _FLAGS if follow_links else _FLAGS | _NO_FOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            alone = not follow_links and os.path.islink(path)
            raise ValueError(f"it is {'a link' if alone else 'behind links in a circle'}") from None
        if error.errno == errno.ENXIO:
            raise ValueError("it is a socket or a device") from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    raise ValueError(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no regular file')}")


def _rest(descriptor: int, data: bytes, most_bytes: int) -> bytes:
    found = bytearray(data)
    while len(found) <= most_bytes:
        part = os.read(descriptor, 2**16)
        if not part:
            return bytes(found)
        found += part
    raise ValueError(_too_large(len(found), most_bytes))


def _too_large(size: int, most_bytes: int) -> str:
    return f"it has {size:,} bytes or more, at most {most_bytes:,} are read"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {twice[:80]!r} twice in one object")
    return value


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS and len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it has an integer of more than {MOST_DIGITS} digits")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(f"it has {text}, which is not JSON")


def _decoder(without: Container[str] = (), any_number: bool = False) -> json.JSONDecoder:
    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in _object(pairs).items() if key not in without}

    return json.JSONDecoder(
        object_pairs_hook=kept if without else _object,
        parse_int=int if any_number else _integer,
        parse_float=float if any_number else finite_float,
        parse_constant=float if any_number else _constant,
    )


# One decoder for nearly all: making one costs as much as decoding a small file.
_DECODER = _decoder()
