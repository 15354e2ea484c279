"""What a writer leaves in order, beside what it computed."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kdcache import durable
from kdcache.encode import KINDS
from kdcache.store.array_documents import has_commits
from kdcache.store.commits import store_lock, withdraw
from kdcache.store.layout import LISTS, METADATA, ArrayLocation
from kdcache.store.manifest import Manifest
from kdcache.store.sample_lists import list_path
from kdcache.store.stored_mentor import StoredMentor


def forget_unused(array: ArrayLocation, is_alone: Callable[[], bool]) -> None:
    """Takes an array's documents away when nothing of it is committed and nobody else writes.

    A run that ended before its first commit would else decide its encoder and precision for ever.
    A mentor's primary targets are what makes it one: they go with its own document, after all
    others.
    """
    is_primary = KINDS[array.kind].primary
    made = array.group / METADATA if is_primary else array.metadata

    def is_used() -> bool:
        return has_commits(array.group, "*/") if is_primary else has_commits(array.folder)

    if is_used():
        return
    with store_lock(array.root):
        if is_alone() and made.exists() and not is_used():
            fitted = (array.spare_encoder, array.calibration) if is_primary else ()
            for document in dict.fromkeys((made, array.metadata, *fitted)):
                durable.remove(document)
                durable.fsync_folder(document.parent)


def withdraw_strays(stored: StoredMentor, manifest: Manifest) -> None:
    """Removes broken records of chunks that the array cannot have: none will ever replace them."""
    strays = [
        wrong.path
        for wrong in stored.broken
        if wrong.key[0] >= stored.declared_views or wrong.key[1] >= manifest.num_blocks
    ]
    if strays:
        with store_lock(stored.array.root):
            withdraw(stored.array, strays)


def keep_what_is_there(root: Path, mentors: Iterable[ArrayLocation]) -> None:
    """Makes the documents and records durable that can be seen in a store.

    A writer that was killed between a rename and its fsync left some that were not yet.
    """
    folders = [root, *(list_path(root, name).parent for name in LISTS)]
    folders += [*(root / name for name in LISTS), root / "mentors"]
    for array in mentors:
        folders += [array.group, array.folder, array.commits]
    for folder in folders:
        with suppress(FileNotFoundError, PermissionError):  # not made yet; only to be read
            durable.fsync_folder(folder)
