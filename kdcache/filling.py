"""What every run that fills a store does around its work: documents first, order afterwards."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kdcache.calibration import Calibration
from kdcache.errors import RunFailed, StoreError, UsageError
from kdcache.store import (
    LabelledSamples,
    Manifest,
    TargetStore,
    ensure_mentor,
    ensure_store,
    explained,
    forget_unused,
    gather_commits,
    keep_what_is_there,
    open_store,
    remove_leftovers,
    withdraw_strays,
    write_calibration,
    writing,
)
from kdcache.wanted import TargetsKey, Wanted, require_same_targets

Progress = Callable[[int, int], None]  # (rows done, all of them)


def never() -> bool:
    """Of a run that nobody stops."""
    return False


def fill_store(
    root: Path,
    manifest: Manifest,
    samples: LabelledSamples,
    wanted: Sequence[Wanted],
    views: Mapping[TargetsKey, int],
    calibrations: Iterable[Calibration],
    fill: Callable[[TargetStore], int] | None,
    require_same: Callable[[TargetStore], None],
) -> tuple[int, list[Path]]:
    """Makes or heals a store and its mentors' documents, and lets `fill` commit chunks.

    `views`: to declare, of each wanted. `fill`: gives how much it did; None: nothing is to do, 0.
    `require_same`: raises where another writer was first and made the store for something else.
    Returns what `fill` gave, and the documents that were healed.

    Raises RunFailed for a full disk, StoreError for a folder that vanished or cannot be written,
    StoreMismatch where another writer was first. Whatever ends `fill`, the commits are gathered.
    """
    with explained(root):
        healed = ensure_store(root, manifest, samples)
        if fill is not None:
            with writing(root) as is_alone:
                store, more = _prepare(root, manifest, wanted, views, calibrations, require_same)
                try:
                    try:
                        done = fill(store)
                    finally:
                        _tidy(root, wanted)
                except (RunFailed, UsageError):  # the next try may be with other options
                    for one in reversed(wanted):
                        forget_unused(store.mentor(*one.key).array, is_alone)
                    raise
        else:
            _, more = _prepare(root, manifest, wanted, views, calibrations, require_same)
            done = 0
            _tidy(root, wanted)
            remove_leftovers(root)
    return done, [*healed, *more]


def _prepare(
    root: Path,
    manifest: Manifest,
    wanted: Sequence[Wanted],
    views: Mapping[TargetsKey, int],
    calibrations: Iterable[Calibration],
    require_same: Callable[[TargetStore], None],
) -> tuple[TargetStore, list[Path]]:
    """The store, with room for every planned chunk; and which documents it had to heal."""
    healed: list[Path] = []
    store = open_store(root)
    if store.manifest != manifest:  # another writer was first
        require_same(store)
    for one in wanted:
        healed += ensure_mentor(
            root, store.manifest, one.mentor, one.encoder, one.kind, views[one.key], one.width
        )
    for calibration in calibrations:
        write_calibration(root, calibration.mentor, calibration.to_json())
    store = open_store(root)
    for one in wanted:  # another writer may have been first
        require_same_targets(store, store.mentor(*one.key), one)
    keep_what_is_there(root, [store.mentor(*one.key).array for one in wanted])
    return store, healed


def _tidy(root: Path, wanted: Sequence[Wanted]) -> None:
    """Gathers the commits, and removes records that no chunk will ever need."""
    with suppress(OSError, StoreError):  # only an aid, and another error may be on its way
        store = open_store(root)
        for stored in [store.mentor(*one.key) for one in wanted]:
            withdraw_strays(stored, store.manifest)
            gather_commits(stored.array, stored.identity)
