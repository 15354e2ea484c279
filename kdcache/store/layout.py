"""Where everything of a store lies (format 1; docs/format.md is the reference).

STORE/zarr.json                              group; attributes.kdcache: the manifest
STORE/index/, labels/                        int64 (N,): the samples' permanent integers, labels
STORE/mentors/zarr.json                      group
STORE/mentors/<m>/zarr.json                  group; attributes.kdcache: the mentor's identity
STORE/mentors/<m>/<kind>/zarr.json           array (views, N, *row); attributes: the encoder
STORE/mentors/<m>/<kind>/encoder.json        a fitted encoder again; calibration.json: its price
STORE/mentors/<m>/<kind>/c/<v>/<b>[/0..]     chunks, one a (view, block of samples)
STORE/mentors/<m>/<kind>/commits/<v>.<b>.<crc>.json   what exists, and its checksums
STORE/mentors/<m>/<kind>/commits.json        the commit records gathered; may lag, can be rebuilt
STORE/README.md                              the card, for people; need not be there
STORE/.lock, .writers                        locks: held for moments; held by every writer
"""

import os
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

from kdcache.errors import StoreError, UsageError

FORMAT = 1
TARGET_BLOCK = 8192
MOST_VIEWS = 2**32  # the counter that views are made from (philox)
MOST_NAME = 200  # characters of a mentor's: it names a folder
METADATA = "zarr.json"
SPARE_ENCODER = "encoder.json"
LISTS = ("index", "labels")
CARD = "README.md"  # what the store is, for people; nothing depends on it
MEMBERS = frozenset({METADATA, *LISTS, "mentors"})


def block_size(num_samples: int, most: int | None = None) -> int:
    """Samples a chunk: equal blocks of at most `most` (None: 8,192), so that little padding is
    stored."""
    return ceil(num_samples / ceil(num_samples / (most or TARGET_BLOCK)))


def member_name(mentor: str) -> str:
    """A mentor's folder name; `torchvision:resnet50` becomes `torchvision.resnet50`."""
    name = mentor.replace(":", ".")
    plain = name and not name.startswith((".", "__")) and set(name) <= _MEMBER_CHARACTERS
    if not plain or len(name) > MOST_NAME or name == METADATA:
        raise UsageError(
            f"{mentor!r:.300} cannot name a mentor in a store: use up to {MOST_NAME} letters, "
            "digits, '.', '_' and '-'"
        )
    return name


_MEMBER_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def require_inside(root: Path, path: Path) -> None:
    """Raises StoreError when a link below `root` leads `path` somewhere else.

    A store from a stranger could otherwise make us write over any file of ours.
    """
    place = str(root)
    for part in path.relative_to(root).parts:
        place = f"{place}{os.sep}{part}"
        if part == ".." or os.path.islink(place):
            raise StoreError(
                f"{path} lies behind a symbolic link inside the store {root}; a store holds no "
                "links. Put the files themselves there"
            )


def listed(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder. Raises StoreError."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # links in a circle, permissions
        raise StoreError(
            f"cannot list {folder} ({error.strerror}). Check its permissions, or fetch the store "
            "again from where it came"
        ) from error


@dataclass(frozen=True, kw_only=True)
class ArrayLocation:
    """The array of one mentor's targets of one kind; `row_rank`: dimensions of one row."""

    root: Path
    mentor: str
    kind: str
    row_rank: int = 1

    @cached_property
    def group(self) -> Path:
        return self.root / "mentors" / member_name(self.mentor)

    @cached_property
    def folder(self) -> Path:
        return self.group / self.kind

    @property
    def metadata(self) -> Path:
        return self.folder / METADATA

    @property
    def spare_encoder(self) -> Path:
        """A second copy of a fitted encoder: without its table no chunk can be decoded."""
        return self.folder / SPARE_ENCODER

    @property
    def calibration(self) -> Path:
        """What encoders cost this mentor's targets when one was chosen; information only."""
        return self.folder / "calibration.json"

    @cached_property
    def commits(self) -> Path:
        return self.folder / "commits"

    @property
    def commit_index(self) -> Path:
        return self.folder / "commits.json"

    def chunk(self, view: int, block: int) -> Path:
        """Zarr's default chunk key: c/<view>/<block>/0 (one 0 for each row dimension)."""
        return Path(f"{self.folder}/c/{view}/{block}{'/0' * self.row_rank}")
