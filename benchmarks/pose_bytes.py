"""Bytes of trained mentors' heatmaps on real photographs, and what their encoding changes."""

from collections.abc import Iterator

from benchmarks.material import Settings
from benchmarks.paired import Budget, Spread, verdict
from benchmarks.pose_material import DATASET, stored_bytes
from benchmarks.table import Row, Skipped, number
from kdcache.datasets import open_dataset
from kdcache.errors import CheckpointError, DatasetError
from kdcache.mentor_library import find_checkpoint, read_sidecar
from kdcache.mentors import load_mentor
from kdcache.models.pose_names import POSE_SHORT_NAMES
from kdcache.precompute import PrecomputeJob
from kdcache.store import TargetStore

BYTES = Budget(limit=10_000, higher_is_better=False)
MOST_MOVED = 0.02  # of the maps' peaks
VIEWS, PEOPLE = 2, 256
WHAT = "bytes per (view, person, mentor) of 17 x 64 x 48, heatmap8"


def measure_bytes(settings: Settings) -> Iterator[Row | Skipped]:
    """A row a mentor of the library, on views as students are trained on.

    What a network says between joints decides the bytes, so random networks would say nothing.
    """
    if settings.data_dir is None:
        yield Skipped(what=WHAT, why="needs COCO and trained mentors; set KDCACHE_DATA")
        return
    try:
        dataset = open_dataset(DATASET, data_dir=str(settings.data_dir))
    except DatasetError:
        yield Skipped(what=WHAT, why=f"no COCO below {settings.data_dir}")
        return
    found = {}
    for name in POSE_SHORT_NAMES:
        try:
            found[name] = find_checkpoint(name, DATASET)
        except CheckpointError:
            continue
    if not found:
        why = f"no trained mentor: kdcache train-mentor sb18 --dataset {DATASET}"
        yield Skipped(what=WHAT, why=why)
        return
    dataset = dataset.select(min(len(dataset), settings.size(full=PEOPLE, quick=8)))
    for name, checkpoint in found.items():
        store = (
            PrecomputeJob(
                dataset,
                [load_mentor(name, dataset, checkpoint)],
                store=settings.folder / f"trained-{name}",
                views=VIEWS,
                device="cpu",
            )
            .run()
            .store
        )
        sidecar = read_sidecar(checkpoint) or {}
        trained = ", ".join(
            f"{key} {number(sidecar[key]) if key == 'test_ap' else sidecar[key]}"
            for key in ("epochs", "samples", "test_ap")
            if sidecar.get(key) is not None
        )
        yield _row(name, store, trained)


def _row(name: str, store: TargetStore, trained: str) -> Row:
    stored = store.mentor(name)
    lost = stored.kind.combine_error_sums(record.error_sums for record in stored.commits.values())
    value = stored_bytes(store, [name])
    measured = Spread(median=value, low=value, high=value, n=1)
    moved = lost["argmax"]
    return Row(
        what=f"{WHAT}, {name}",
        measured=measured,
        unit=" B",
        budget=BYTES,
        note=verdict(measured, BYTES) if moved <= MOST_MOVED else f"{moved:.1%} of peaks moved",
        detail=(
            f"{name} trained: {trained or 'unknown'}; {store.num_samples} people x "
            f"{store.num_views} views; peaks moved {moved:.2%}, keypoint by "
            f"{number(lost['keypoint'])} heatmap pixels in the mean, "
            f"{number(lost['max_keypoint'])} at most, a pixel by {lost['relative']:.2%} of its "
            f"map's peak in the mean, {number(lost['max_absolute'])} at most (counted, not timed)"
        ),
    )
