"""A commit record: what one committed chunk is, and how it is known to be intact."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcache.store.layout import MOST_VIEWS

ChunkKey = tuple[int, int]  # (view, block)
LARGEST_SUM = 1e100
MOST_SUMS = 100  # names; a writer has seven, and six of an inexact source
MOST_SUM_NAME = 40


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """One committed chunk.

    `rows`: samples, without padding. `bytes`: of the payload, without its CRC32C. `crc32c`,
    `sha256`: of the payload. `identity`: of what was computed (`StoredMentor.identity`).
    `correct`: rows whose largest log-probability is the label's. `error_sums`: what encoding cost.
    """

    view: int
    block: int
    rows: int
    bytes: int
    crc32c: str
    sha256: str
    identity: str
    correct: int
    error_sums: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> ChunkKey:
        return self.view, self.block

    @property
    def checksum(self) -> int:
        return int(self.crc32c, 16)

    @property
    def file_name(self) -> str:
        """Holds the checksum, so that a record under one name never changes."""
        return f"{self.view:06d}.{self.block:06d}.{self.crc32c}.json"

    @classmethod
    def from_json(cls, name: str, value: Any) -> "CommitRecord":
        """The record of that file name. Raises ValueError for what no writer wrote."""
        try:
            record = cls(**value)
            for count in (record.view, record.block, record.rows, record.bytes, record.correct):
                if type(count) is not int or not 0 <= count < 2**62:
                    raise ValueError("counts must be integers from 0 up")
            if record.view >= MOST_VIEWS or record.correct > record.rows:
                raise ValueError(f"it states view {record.view}, {record.correct} of {record.rows}")
            if not _DIGESTS.fullmatch(f"{record.crc32c} {record.sha256} {record.identity}"):
                raise ValueError("checksums must be hexadecimal")
            _require_sums(record.error_sums)
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a commit record of this format ({error})") from error
        if record.file_name != name:
            raise ValueError(f"it holds the record of another chunk ({record.file_name})")
        return record


_DIGESTS = re.compile("[0-9a-f]{8} [0-9a-f]{64} [0-9a-f]{64}")


def _require_sums(sums: Mapping[str, Any]) -> None:
    """Raises ValueError for error sums whose means over all chunks would not be numbers."""
    for name, error_sum in sums.items():
        if type(error_sum) not in (int, float) or not 0 <= error_sum < LARGEST_SUM:
            raise ValueError("error sums must be numbers from 0 up")
        if not (name.isascii() and name.isidentifier() and len(name) <= MOST_SUM_NAME):
            raise ValueError("error sums must have plain names")
    if sums.get("measured_rows", 1) < 1 or len(sums) > MOST_SUMS:
        raise ValueError("its error sums are none that a writer made")
