"""Photographs of people: decoded once, kept while they fit into a bounded memory."""

import hashlib
import io
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.people import People, PersonPhotos
from kdcache.errors import DatasetError
from kdcache.untrusted import read_bytes

MOST_BYTES = 2**26  # of a file
MOST_PIXELS = 2**26  # of a photograph: 192 MiB decoded; COCO's largest has 0.4 million
CACHE_BYTES = 2**28


def read_photo(path: Path, whose: str = "") -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) of a JPEG or PNG file; greyscale, palette and CMYK are converted.

    The pixels as they lie in the file: an orientation in its EXIF part is not applied, as
    annotations are of the raw pixels; transparency is dropped. `whose` names the annotation in
    errors. Raises DatasetError for a file that is missing, truncated, broken, of another format,
    or of more than 2**26 pixels.
    """
    return _decoded(_file_bytes(path, whose), path, whose)


class PhotoReader:
    """`reader(index_B)` -> `PersonPhotos`: the whole photographs of people of a dataset.

    `folder` has their image files; `size_N2`: what the annotation file says of their widths and
    heights, compared. Photographs read last are kept, decoded, in `cache_bytes`; they are shared,
    so nobody may write into them. Any number of threads may read at once. A forked process reads on
    with what was kept; pickled, it is sent without.
    """

    def __init__(
        self,
        people: People,
        folder: Path,
        size_N2: NDArray[np.int64] | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.people = people
        self.folder = folder
        self._size = size_N2
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()  # the oldest use first
        self._bytes = 0
        self._lock = threading.Lock()
        _READERS.add(self)

    def __call__(self, index_B: NDArray[np.int64]) -> PersonPhotos:
        """Raises DatasetError naming file and annotation."""
        index_B = np.asarray(index_B, dtype=np.int64)
        photos = [self._photo(index) for index in index_B.tolist()]
        return PersonPhotos(people=self.people.take(index_B), photos=photos)

    def file_sha256(self, index_B: NDArray[np.int64]) -> list[str]:
        """Hex SHA-256 of each one's image file, as it lies on the disk. Raises as calling does."""
        return [
            hashlib.sha256(
                _file_bytes(self.folder / self.people.files[i], self._whose(i))
            ).hexdigest()
            for i in np.asarray(index_B).tolist()
        ]

    @property
    def kept_bytes(self) -> int:
        """Of decoded photographs in memory now."""
        return self._bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_kept": OrderedDict(), "_bytes": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        _READERS.add(self)

    def _after_fork(self) -> None:
        """In the child, where no thread is left that could give the lock back."""
        self._lock = threading.Lock()
        self._bytes = sum(photo.nbytes for photo in self._kept.values())

    def _whose(self, index: int) -> str:
        return f"annotation {self.people.annotation_N[index]}"

    def _photo(self, index: int) -> NDArray[np.uint8]:
        name = self.people.files[index]
        with self._lock:
            photo = self._kept.get(name)
            if photo is not None:
                self._kept.move_to_end(name)
                return photo
        photo = read_photo(self.folder / name, self._whose(index))
        height, width, _ = photo.shape
        if self._size is not None and (width, height) != tuple(self._size[index]):
            stated = " x ".join(map(str, self._size[index]))
            raise DatasetError(
                f"{self.folder / name}: {self._whose(index)}: the annotation file says {stated} "
                f"pixels, the image has {width} x {height}. Annotations fit the original image only"
            )
        self._keep(name, photo)
        return photo

    def _keep(self, name: str, photo: NDArray[np.uint8]) -> None:
        with self._lock:
            if name in self._kept or photo.nbytes > self._cache_bytes:
                return
            self._kept[name] = photo
            self._bytes += photo.nbytes
            while self._bytes > self._cache_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


_READERS: WeakSet[PhotoReader] = WeakSet()  # of this process


def _readers_after_fork() -> None:
    for reader in _READERS:
        reader._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_readers_after_fork)


def _file_bytes(path: Path, whose: str) -> bytes:
    try:
        return read_bytes(path, most_bytes=MOST_BYTES)
    except (ValueError, OSError) as error:
        raise _unreadable(path, whose, getattr(error, "strerror", None) or str(error)) from None


def _decoded(data: bytes, path: Path, whose: str) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(
                    f"it claims {width:,} x {height:,} pixels, at most {MOST_PIXELS:,} are decoded"
                )
            # A palette's transparency would warn on the way to RGB.
            direct = image.convert("RGBA") if image.mode == "P" else image
            return np.array(direct.convert("RGB"))
    except UnidentifiedImageError:
        raise _unreadable(path, whose, "it is neither a JPEG nor a PNG image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unreadable(path, whose, f"it claims too many pixels: {error}") from None
    # What Pillow's readers raise for broken files: SyntaxError of PNG, struct.error, and so on.
    except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError) as error:
        reason = "it is cut short" if "truncated" in str(error) else "it is broken"
        raise _unreadable(path, whose, f"{reason}: {error}") from None


def _unreadable(path: Path, whose: str, reason: str) -> DatasetError:
    named = f"{path}: {whose}" if whose else f"{path}"
    return DatasetError(f"{named}: the image cannot be read: {reason}")
