"""A loss by its method's name, for the command line and config files.

    loss = build_loss("classroom", tau=4.0, gate="off")
    loss.tau, build_loss("kd", temperature=2.0)
    build_loss("classroom", task="pose", granularity="sample")

Python code calls the class itself; here wrong names and values become errors for the user. A
method's class is a frozen dataclass of its switches, and most are the loss themselves. One that
learns has `for_shapes(shapes, seed)`, which makes the loss: a `torch.nn.Module` of that size.
"""

import dataclasses
from typing import Any

from kdcache.classroom.amtml import Amtml
from kdcache.classroom.average import AverageLoss
from kdcache.classroom.ca_mkd import CAMKDLoss
from kdcache.classroom.classroom_loss import ClassroomLoss
from kdcache.classroom.cross_entropy import CrossEntropyLoss
from kdcache.classroom.dist import DISTLoss
from kdcache.classroom.dkd import DKDLoss
from kdcache.classroom.ebkd import EBKDLoss
from kdcache.classroom.heatmap_average import HeatmapAverageLoss
from kdcache.classroom.heatmap_ce import HeatmapLabelLoss
from kdcache.classroom.heatmap_kd import HeatmapKDLoss
from kdcache.classroom.heatmap_loss import HeatmapClassroomLoss
from kdcache.classroom.kd import KDLoss
from kdcache.classroom.logit_mse import LogitMSELoss
from kdcache.classroom.output import MentorLoss
from kdcache.classroom.shapes import LossShapes
from kdcache.classroom.soft import SoftLoss
from kdcache.errors import UsageError, unknown_name

METHODS: dict[str, type[Any]] = {
    "classroom": ClassroomLoss,
    "ce": CrossEntropyLoss,
    "kd": KDLoss,
    "average": AverageLoss,
    "soft": SoftLoss,
    "ca-mkd": CAMKDLoss,
    "ebkd": EBKDLoss,
    "dkd": DKDLoss,
    "dist": DISTLoss,
    "logit-mse": LogitMSELoss,
    "amtml": Amtml,
}


POSE_METHODS: dict[str, type[Any]] = {
    "classroom": HeatmapClassroomLoss,
    "ce": HeatmapLabelLoss,
    "average": HeatmapAverageLoss,
    "kd": HeatmapKDLoss,
}

TASKS = {"classification": METHODS, "pose": POSE_METHODS}


def methods_of(task: str) -> dict[str, type[Any]]:
    """The methods of a task, "classification" (logits) or "pose" (heatmaps), by name."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return TASKS[task]


def build_method(method: str, /, *, task: str = "classification", **switches: object) -> Any:
    """The class of `method` with these switches: the loss itself, or what makes one that learns.

    `task`: what it is called with, logits ("classification") or heatmaps ("pose"). Either has
    `needs`. UsageError for an unknown method, one that is not there for the task, a switch it
    lacks, a bad value.
    """
    methods = methods_of(task)
    if method in METHODS and method not in methods:
        raise UsageError(
            f"method {method!r} takes logits, and a {task} network gives heatmaps; "
            f"methods that take heatmaps: {', '.join(methods)}"
        )
    if method not in methods:
        raise unknown_name("method", method, methods)
    known = [field.name for field in dataclasses.fields(methods[method])]
    for name in switches:
        if not known:
            raise UsageError(f"method {method!r} has no switches, got {name}={switches[name]!r}")
        if name not in known:
            raise unknown_name(f"switch of method {method!r}:", name, known)
    try:
        return methods[method](**switches)
    except ValueError as error:
        raise UsageError(f"method {method!r}: {error}") from error


def build_loss(
    method: str,
    /,
    *,
    task: str = "classification",
    shapes: LossShapes | None = None,
    seed: int = 0,
    **switches: object,
) -> MentorLoss:
    """The loss of `method`. UsageError as `build_method`, and for shapes that do not fit it.

    A method that learns needs `shapes`, and begins from `seed`.
    """
    loss = build_method(method, task=task, **switches)
    if not hasattr(loss, "for_shapes"):
        return loss  # type: ignore[no-any-return]  # tests hold each to the protocol
    try:
        if shapes is None:
            raise ValueError("it learns, so build_loss needs shapes=LossShapes(...); got None")
        return loss.for_shapes(shapes, seed)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"method {method!r}: {error}") from error


def has_filter(method: str, /, *, task: str = "classification", **switches: object) -> bool:
    """Whether the method has a knowledge filter that decides; without, all mentors always teach."""
    return bool(getattr(build_method(method, task=task, **switches), "filters", False))
