"""Who writes to a store now, what killed writers left behind, and what stops a writer."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache import durable
from kdcache.errors import RunFailed, StoreError
from kdcache.store.commits import require_folder, store_lock
from kdcache.store.layout import require_inside


@contextmanager
def writing(root: Path) -> Iterator[Callable[[], bool]]:
    """Marks this process as a writer of the store at `root`, until it ends however it ends.

    A writer that finds no other one alive first removes the hidden files that killed writers left.
    The operating system drops the mark with the process, so no clock is asked. Yields whether this
    is the only writer, to be asked under the store's lock, which a writer that begins waits for.
    """
    if os.name != "posix":  # without shared locks nobody knows who is alive: the files stay
        yield lambda: False
        return
    import fcntl

    with store_lock(root):
        require_inside(root, root / ".writers")
        mark = os.open(root / ".writers", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in _leftovers(root):
                    durable.remove(path)
            fcntl.flock(mark, fcntl.LOCK_SH)
        except BaseException:
            os.close(mark)
            raise

    def is_alone() -> bool:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(mark, fcntl.LOCK_SH)
        return True

    try:
        yield is_alone
    finally:
        os.close(mark)


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """The operating system's refusals while a store is written, as errors that say what to do."""
    try:
        yield
    except FileNotFoundError:
        require_folder(root)
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, IsADirectoryError):
            raise StoreError(
                f"{error.filename} is a folder that is not empty, where the store has a file. Look "
                "what is in it, remove it, and run the same command again"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunFailed(
                f"{root} cannot take more: {reason}. Every finished block is committed; free some "
                "space and run the same command again"
            ) from error
        raise StoreError(
            f"cannot write to the store {root} ({reason}); every finished block is committed. "
            "Check its permissions, or name a folder you may write to"
        ) from error


def remove_leftovers(root: Path) -> None:
    """For who has nothing to write: removes what killed writers left, if the folder lets it."""
    if any(True for _ in _leftovers(root)):
        with suppress(OSError), writing(root):
            pass


def _leftovers(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names if durable.is_aside(name))
