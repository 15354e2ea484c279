"""A student against a store: which mentors would teach it now, and on which classes.

The student runs over the replayed views, as evaluated (no dropout, running BatchNorm statistics);
the mentors' answers are the stored ones, and `ClassroomLoss` itself decides. No mentor is loaded.
"""

import os
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from kdcache.classroom import ClassroomLoss, LossOutput
from kdcache.classroom.confidence import label_loss
from kdcache.datasets import ImageDataset
from kdcache.devices import precision_context, resolve_device
from kdcache.encode import LOGITS
from kdcache.errors import CheckpointError, UsageError
from kdcache.loader import ReplayLoader
from kdcache.models import checked_forward, short_name
from kdcache.store import TargetStore, dataset_at_hand
from kdcache.stream import TargetStream
from kdcache.train.class_sums import TAUGHT, sum_by_class, taught
from kdcache.train.trained import Trained, TrainedFile, find_trained

BATCH = 256
HARDLY = 0.01  # a mentor active on a smaller share hardly teaches


def inspect_classroom(
    store: TargetStore,
    checkpoint: str | os.PathLike[str],
    *,
    mentors: Sequence[str] | None = None,
    views: int | Sequence[int] | None = None,
    tau: float = 12.0,
    network: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Which of a store's mentors would teach the student in `checkpoint`, sample by sample.

    `checkpoint`: a run folder or its checkpoint.pt (the student of the last saved step), a finished
    student, or a mentor's weights. `views`: the first so many or a list; None: the first usable
    one. `tau`: ClassroomKD's; per sample, hard gate, whatever the student was trained by. Where
    student and mentor are nearly alike, the rounding of a lossy store decides. `mentors`,
    `network`, `dataset`: None means as the store and the file say.

    Returns, as JSON: student (checkpoint, network, epochs, steps, accuracy, confidence), views,
    samples (of the store), rows (views x samples), tau, untaught (share of rows that no mentor
    would teach), classes (of each class id: rows, accuracy, confidence, untaught), mentors (name,
    accuracy, confidence; active, the share of rows it would teach; weight, gap and temperature,
    means over those rows; active_by_class and weight_by_class, by class id), never and hardly
    (mentors active on no row, on fewer than 1%). Confidence is the mean p(true); accuracy is
    percent; what no row tells is None.

    Raises CheckpointError and UsageError for a student that is damaged or of other classes,
    DatasetError or StoreMismatch without the store's own data, MissingTargets, DamagedTargets.
    """
    loss = _classroom_loss(tau)
    if store.manifest.primary is not LOGITS:
        raise UsageError(
            f"{store.address} is of people: who would teach whom is told by classes, which they do "
            "not have. Leave --against out"
        )
    names = tuple(short_name(name) for name in mentors or store.mentors)
    chosen = store.usable_views(names)[:1] if views is None else _listed(views)
    file = find_trained(checkpoint, unfinished=True)
    images = dataset_at_hand(store, dataset, data_dir)
    _require_same_dataset(file, images, store)
    trained = file.load(images, network)
    target = resolve_device(device)
    stream = TargetStream(store, names, target, views=chosen)
    loader = ReplayLoader(
        images, stream, BATCH, device=target, drop_last=False, normalize=trained.preprocessing
    )
    sums_CX = _sums(trained, loader, len(chosen), loss, progress)
    return {
        "student": {
            "checkpoint": str(file.path),
            "network": trained.architecture,
            "epochs": trained.epochs,
            "steps": trained.steps,
            **_of_student(sums_CX),
        },
        "views": list(chosen),
        "samples": len(loader.dataset),
        "rows": len(loader.dataset) * len(chosen),
        "tau": tau,
        **_of_classroom(sums_CX, stream.mentors),
    }


_HEAD = ("rows", "untaught", "student right", "student confidence")
_MENTOR = (*TAUGHT, "right", "confidence")


@torch.inference_mode()
def _sums(
    trained: Trained,
    loader: ReplayLoader,
    views: int,
    loss: ClassroomLoss,
    progress: Callable[[int, int], None],
) -> Tensor:
    """(C, 4 + 6 M) sums by class over all rows, float64 on the CPU, columns as named above."""
    device = loader.device
    network = trained.network.eval().to(device)
    num_classes = loader.dataset.num_classes
    dtype = torch.float32 if device.type == "mps" else torch.float64
    width = len(_HEAD) + len(_MENTOR) * len(loader.source.mentors)
    sums_CX = torch.zeros(num_classes, width, dtype=dtype, device=device)
    seen = 0
    for number in range(views):
        loader.set_epoch(number)
        for batch in loader:
            assert batch.logits is not None
            with precision_context(device, "fp32"):
                logits_BC = checked_forward(
                    f"student {trained.architecture!r}",
                    network,
                    batch.images,
                    num_classes,
                    remedy="Give a student of this store's dataset",
                ).float()
            out = loss(logits_BC, batch.labels, batch.logits)
            rows_BX = _rows(out, logits_BC, batch.labels, batch.logits, dtype)
            sums_CX += sum_by_class(batch.labels, rows_BX, num_classes)
            seen += len(batch.labels)
            progress(seen, views * len(loader.dataset))
    sums_CX = sums_CX.cpu().double()
    if not isfinite(sums_CX.sum().item()):
        raise CheckpointError(
            f"the student {trained.architecture!r} gives NaN or infinite logits for these views: "
            "its training diverged, or its preprocessing is another one. Give another checkpoint"
        )
    return sums_CX


def _rows(
    out: LossOutput, logits_BC: Tensor, labels_B: Tensor, mentor_BMC: Tensor, dtype: torch.dtype
) -> Tensor:
    """What is summed of one batch: (B, 4 + 6 M)."""
    student_p_B = torch.exp(-label_loss(logits_BC, labels_B))
    mentor_p_BM = torch.exp(-label_loss(mentor_BMC, labels_B))
    head = (
        torch.ones_like(student_p_B),
        ~out.active_BM.any(dim=1),
        logits_BC.argmax(dim=1) == labels_B,
        student_p_B,
    )
    head_B4 = torch.stack([column_B.to(dtype) for column_B in head], dim=1)
    right_BM = mentor_BMC.argmax(dim=2) == labels_B[:, None]
    return torch.cat(
        [head_B4, taught(out, dtype), right_BM.to(dtype), mentor_p_BM.to(dtype)], dim=1
    )


def _of_student(sums_CX: Tensor) -> dict[str, Any]:
    rows, _, right, confidence = sums_CX.sum(0)[: len(_HEAD)].tolist()
    return {"accuracy": 100 * right / rows, "confidence": confidence / rows}


def _of_classroom(sums_CX: Tensor, names: Sequence[str]) -> dict[str, Any]:
    rows_C, untaught_C, right_C, confidence_C = sums_CX[:, : len(_HEAD)].T.tolist()
    total = sum(rows_C)
    mentors = []
    for m, name in enumerate(names):
        # Columns of one kind lie side by side, a mentor each.
        of_mentor_CK = sums_CX[:, len(_HEAD) + m :: len(names)]
        whole = dict(zip(_MENTOR, of_mentor_CK.sum(0).tolist(), strict=True))
        by_class = dict(zip(_MENTOR, of_mentor_CK.T.tolist(), strict=True))
        rows_taught = whole["active"]
        mentors.append(
            {
                "name": name,
                "accuracy": 100 * whole["right"] / total,
                "confidence": whole["confidence"] / total,
                "active": rows_taught / total,
                **{
                    key: _share(whole[key], rows_taught) for key in ("weight", "gap", "temperature")
                },
                "active_by_class": _shares(by_class["active"], rows_C),
                "weight_by_class": _shares(by_class["weight"], by_class["active"]),
            }
        )
    return {
        "untaught": sum(untaught_C) / total,
        "classes": {
            "rows": [int(rows) for rows in rows_C],
            "accuracy": _shares([100 * right for right in right_C], rows_C),
            "confidence": _shares(confidence_C, rows_C),
            "untaught": _shares(untaught_C, rows_C),
        },
        "mentors": mentors,
        "never": [mentor["name"] for mentor in mentors if mentor["active"] == 0],
        "hardly": [mentor["name"] for mentor in mentors if 0 < mentor["active"] < HARDLY],
    }


def _share(value: float, count: float) -> float | None:
    return value / count if count else None


def _shares(values: Sequence[float], counts: Sequence[float]) -> list[float | None]:
    return [_share(value, count) for value, count in zip(values, counts, strict=True)]


def _classroom_loss(tau: float) -> ClassroomLoss:
    try:
        return ClassroomLoss(tau=tau)
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
