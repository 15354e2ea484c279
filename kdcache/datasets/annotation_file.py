"""Annotation files of pose datasets: read with suspicion, their entries taken by name and kind.

At most `MOST_BYTES` of a file are read: COCO's person_keypoints_train2017.json has 240 MB. Memory
meanwhile: the file's size twice, and what is kept of its entries; for such a file of 267 MB and
261,870 annotations 850 MiB, in 16 s (plain `json.load`: 9 s) of one slow core. For a file that is
made to cost memory at most 20 times its size (19 measured): one of shorter lists is refused.
"""

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.people import People
from kdcache.errors import DatasetError
from kdcache.untrusted import parse_json, read_bytes

MOST_BYTES = 2**29
SMALLEST_SIDE = 0.5  # pixels: of a box that shows anybody
_LEAST_BYTES = 12  # a list or object, and what is in it; COCO's have 130 and more, MPII's 15
MOST_PIXEL = 1e6  # of a coordinate: beyond any photograph, and exact in float32's steps of 1/16
_MOST_NAMED = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Ignored:
    """Annotations that a prediction may match without harm or merit, as COCO's evaluator has it.

    Crowds and people without a labelled joint. `image_N`: int64; `box_N4`: float64 left, top,
    width, height, as in the file; `area_N`: float64; `crowd_N`: bool, whether any number of
    predictions may match.
    """

    image_N: NDArray[np.int64]
    box_N4: NDArray[np.float64]
    area_N: NDArray[np.float64]
    crowd_N: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The people of an annotation file, and what of it is not among them.

    `left_out`: reason -> the annotations' ids, in the file's order. `size_N2`: int64 width and
    height of each person's image as the file states them; None where it states none. `ignored`:
    for COCO's evaluator. `notes`: sentences for whoever opens it.
    """

    people: People
    left_out: Mapping[str, tuple[int, ...]]
    size_N2: NDArray[np.int64] | None = None
    ignored: Ignored | None = None
    notes: tuple[str, ...] = field(default=())

    def report(self) -> tuple[str, ...]:
        """One line a reason: how many annotations and which; then the notes."""
        lines = (
            f"left out, {reason}: {len(ids):,} annotation{'s' * (len(ids) != 1)} "
            f"({some(map(str, ids))})"
            for reason, ids in self.left_out.items()
        )
        return (*lines, *self.notes)


@dataclass(frozen=True)
class AnnotationFile:
    """One file; its methods take values out of entries and name file and entry when they cannot.

    `which` names the entry in errors: "annotation 17". All raise DatasetError.
    """

    path: Path

    def read(self, without: Container[str] = ()) -> Any:
        """The JSON value, NaN and infinity included; values of the keys `without` are let go."""
        try:
            data = read_bytes(self.path, most_bytes=MOST_BYTES)
            if data.count(b"[") + data.count(b"{") > 1000 + len(data) // _LEAST_BYTES:
                raise ValueError("it is of lists and objects, not of people")  # costs 40 times more
            return parse_json(data, without=without, any_number=True)
        except (ValueError, OSError) as error:
            raise self.wrong("", getattr(error, "strerror", None) or str(error)) from None

    def wrong(self, which: str, reason: str) -> DatasetError:
        """The error that says `reason` of an entry, or of the whole file where `which` is ""."""
        return DatasetError(": ".join(part for part in (str(self.path), which, reason) if part))

    def objects(self, value: Any, which: str) -> list[dict[str, Any]]:
        """`value`, when it is a list of objects."""
        if not isinstance(value, list):
            raise self.wrong(which, f"expected a list, got {_kind(value)}")
        for position, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.wrong(which, f"item {position} is {_kind(item)}, expected an object")
        return value

    def integer(self, entry: dict[str, Any], key: str, which: str) -> int:
        """A whole number that int64 holds."""
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise self.wrong(which, f"{key} must be a whole number, got {_shown(entry, key)}")
        return value

    def text(self, entry: dict[str, Any], key: str, which: str) -> str:
        """Text that is not empty."""
        value = entry.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(which, f"{key} must be text, got {_shown(entry, key)}")
        return value

    def numbers(
        self, entry: dict[str, Any], key: str, which: str, shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """float64 of this shape; NaN and infinity are let through (`finite`)."""
        try:
            array = np.asarray(entry.get(key))
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            wanted = " x ".join(map(str, shape)) or "one"
            raise self.wrong(which, f"{key} must be numbers ({wanted}), got {_shown(entry, key)}")
        if array.shape != shape:
            got, wanted = (" x ".join(map(str, s)) or "one number" for s in (array.shape, shape))
            raise self.wrong(which, f"{key} must be {wanted}, got {got}")
        return array.astype(np.float64)

    def finite(self, values: NDArray[np.float64], key: str, which: str) -> None:
        """Refuses NaN, infinity, and what lies further out than any photograph reaches."""
        fine = np.abs(values) <= MOST_PIXEL
        if not fine.all():
            raise self.wrong(which, f"{key} has {values[~fine][0]}, no coordinate of a photograph")

    def image_name(self, entry: dict[str, Any], key: str, which: str) -> str:
        """A file's name inside the folder of images: relative, never outside it."""
        name = self.text(entry, key, which)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise self.wrong(which, f"{key} {name!r:.100} is not a name inside the image folder")
        return str(path)

    def require_images(self, folder: Path, named: Iterable[tuple[str, int]]) -> None:
        """Refuses names (with the annotations that need them) that the folder does not have.

        Folders are listed, one request for thousands of images, instead of asking for each.
        """
        listed: dict[str, set[str]] = {}
        first: dict[str, int] = {}
        for name, annotation in named:
            first.setdefault(name, annotation)
        missing = []
        for name, annotation in first.items():
            inside, _, last = name.rpartition("/")
            if inside not in listed:
                listed[inside] = _names(folder / inside)
            if last not in listed[inside]:
                missing.append(f"{name} (annotation {annotation})")
        if missing:
            raise self.wrong(
                "",
                f"{len(missing):,} of its {len(first):,} images are not in {folder}: "
                f"{some(missing)}. Put them there, or use the annotation file of the images "
                "that are",
            )


def some(names: Iterable[str], most: int = _MOST_NAMED) -> str:
    """The first of them, and how many more there are."""
    listed = list(names)
    more = f", and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror or error}") from None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", type(None): "nothing"}.get(
        type(value), "a number"
    )


def _shown(entry: dict[str, Any], key: str) -> str:
    return f"{entry[key]!r:.60}" if key in entry else "nothing"
