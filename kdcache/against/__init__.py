"""A student against a store: which mentors would teach it now, and on which classes or joints.

The student runs over the replayed views, as evaluated (no dropout, running BatchNorm statistics);
the mentors' answers are the stored ones, and ClassroomKD's loss itself decides. No mentor is
loaded.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kdcache.against import classes, joints
from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.encode import HEATMAPS
from kdcache.errors import UsageError
from kdcache.loader import ReplayLoader
from kdcache.models import short_name
from kdcache.store import TargetStore, dataset_at_hand
from kdcache.stream import TargetStream
from kdcache.train.trained import TrainedFile, find_trained

Loss = TypeVar("Loss")


def inspect_classroom(
    store: TargetStore,
    checkpoint: str | os.PathLike[str],
    *,
    mentors: Sequence[str] | None = None,
    views: int | Sequence[int] | None = None,
    tau: float | None = None,
    network: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Which of a store's mentors would teach the student in `checkpoint`, row by row.

    `checkpoint`: a run folder or its checkpoint.pt (the student of the last saved step), a finished
    student, or a mentor's weights. `views`: the first so many or a list; None: the first usable
    one. `tau`: ClassroomKD's (None: 12, of people 1.5); per sample, of people per joint, hard gate,
    whatever the student was trained by. Where student and mentor are nearly alike, the rounding of
    a lossy store decides. `mentors`, `network`, `dataset`: None means as the store and the file
    say.

    Returns, as JSON: student (checkpoint, network, epochs, steps, accuracy, confidence), views,
    samples (of the store), rows (views x samples), tau, untaught (share of rows that no mentor
    would teach), classes (of each class id: rows, accuracy, confidence, untaught), mentors (name,
    accuracy, confidence; active, the share of rows it would teach; weight, gap and temperature,
    means over those rows; active_by_class and weight_by_class, by class id), never and hardly
    (mentors active on no row, on fewer than 1%). Confidence is the mean p(true); accuracy is
    percent; what no row tells is None.

    Of a store of people joints take the place of rows and classes: those labelled in a view. Shares
    and means are of them; classes is joints (of each joint: names, labelled, confidence, sees,
    untaught), and mentors have active_by_joint and weight_by_joint. Confidence is the mean a_j of
    the peak-normalised maps; in place of accuracy is sees, the percent of labelled joints whose map
    peaks at 0.1 or above.

    Raises CheckpointError and UsageError for a student that is damaged or of other classes,
    DatasetError or StoreMismatch without the store's own data, MissingTargets, DamagedTargets.
    """
    of_people = store.manifest.primary is HEATMAPS
    told_by = joints if of_people else classes
    loss = _made(told_by.make_loss, tau)
    names = tuple(short_name(name) for name in mentors or store.mentors)
    chosen = store.usable_views(names)[:1] if views is None else _listed(views)
    file = find_trained(checkpoint, unfinished=True)
    images = dataset_at_hand(store, dataset, data_dir)
    _require_same_dataset(file, images, store)
    trained = file.load(images, network)
    target = resolve_device(device)
    stream = TargetStream(
        store, names, target, views=chosen, window=joints.WINDOW if of_people else None
    )
    loader = ReplayLoader(
        images,
        stream,
        told_by.BATCH,
        device=target,
        drop_last=False,
        normalize=trained.preprocessing,
    )
    inspected = joints.inspect_joints if of_people else classes.inspect_classes
    of_student, of_classroom = inspected(trained, loader, len(chosen), loss, progress)
    return {
        "student": {
            "checkpoint": str(file.path),
            "network": trained.architecture,
            "epochs": trained.epochs,
            "steps": trained.steps,
            **of_student,
        },
        "views": list(chosen),
        "samples": len(loader.dataset),
        "rows": len(loader.dataset) * len(chosen),
        "tau": loss.tau,
        **of_classroom,
    }


def _made(make: Callable[[float | None], Loss], tau: float | None) -> Loss:
    try:
        return make(tau)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _listed(views: int | Sequence[int]) -> Sequence[int]:
    if views == 0 or (not isinstance(views, int) and not views):
        raise UsageError("views must be at least 1, or name at least one view")
    return range(views) if isinstance(views, int) else tuple(views)


def _require_same_dataset(file: TrainedFile, images: ImageDataset, store: TargetStore) -> None:
    """A student that says its dataset must say the store's."""
    theirs = file.stated.get("dataset")
    if theirs is not None and theirs not in (images.name, store.manifest.dataset["name"]):
        raise UsageError(
            f"{file.path} was trained on {theirs!r:.100}, the store {store.address} is of "
            f"{store.manifest.dataset['name']!r:.100}; give a student of the store's dataset"
        )
