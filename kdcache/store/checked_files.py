"""Files whose every byte this process has checked, as long as they stay the same file.

Training reads a store again and again; a chunk's CRC32C need be computed once for each state of its
file. Only reading for training may rely on that: verifying, healing and planning check every byte.

What says that a file is unchanged is its device, inode, size and two times. A change within the
clock's granularity of the one before leaves both times as they were, so a file is remembered only
if it had rested for `SETTLED_NS` when it was read. What this cannot notice is a disk that returns
other bytes later for a file nobody changed; `kdcache verify` does.
"""

import os
import time

SETTLED_NS = 2_000_000_000  # FAT keeps times to two seconds, no file system more coarsely

_Identity = tuple[int, int]
_State = tuple[int, int, int, int]


class CheckedFiles:
    """A memory of checked files: some 300 bytes each. Safe for threads; a forked child has its own.

    with open(path, "rb") as file:
        state = FileState(file.fileno())
        ..                              # read all of it
        if not checked.knows(state, checksum) and crc32c(bytes) == checksum:
            checked.remember(state, checksum)
    """

    def __init__(self) -> None:
        self._states: dict[_Identity, _State] = {}

    def clear(self) -> None:
        """Forgets them all: every file is checked at its next reading."""
        self._states.clear()

    def knows(self, state: "FileState", checksum: int) -> bool:
        """Whether it was found to have this checksum, unchanged to the end of this reading."""
        known = self._states.get(state.identity)
        return known == (*state.stamps, checksum) and state.is_unchanged()

    def remember(self, state: "FileState", checksum: int) -> None:
        """That it has this checksum; not if it changed while it was read, or just before."""
        if state.is_settled and state.is_unchanged():
            self._states[state.identity] = (*state.stamps, checksum)


class FileState:
    """An open file as it stands before it is read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        now = time.time_ns()
        self.identity, self.stamps = _identity_and_stamps(descriptor)
        self.is_settled = now - max(self.stamps[1:]) >= SETTLED_NS

    def is_unchanged(self) -> bool:
        """Whether it still stands so."""
        return _identity_and_stamps(self._descriptor) == (self.identity, self.stamps)


def _identity_and_stamps(descriptor: int) -> tuple[_Identity, tuple[int, int, int]]:
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
