"""A loss by its method's name, for the command line and config files.

    loss = build_loss("classroom", tau=4.0, gate="off")
    loss.tau, build_loss("kd", temperature=2.0)

Python code calls the class itself; here wrong names and values become errors for the user.
"""

import dataclasses

from kdcache.classroom.average import AverageLoss
from kdcache.classroom.classroom_loss import ClassroomLoss
from kdcache.classroom.cross_entropy import CrossEntropyLoss
from kdcache.classroom.kd import KDLoss
from kdcache.classroom.output import MentorLoss
from kdcache.errors import UsageError, unknown_name

METHODS: dict[str, type[ClassroomLoss | CrossEntropyLoss | KDLoss | AverageLoss]] = {
    "classroom": ClassroomLoss,
    "ce": CrossEntropyLoss,
    "kd": KDLoss,
    "average": AverageLoss,
}


def build_loss(method: str, **switches: object) -> MentorLoss:
    """The loss of `method`; UsageError for an unknown method, a switch it lacks, a bad value."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    known = [field.name for field in dataclasses.fields(METHODS[method])]
    for name in switches:
        if not known:
            raise UsageError(f"method {method!r} has no switches, got {name}={switches[name]!r}")
        if name not in known:
            raise unknown_name(f"switch of method {method!r}:", name, known)
    try:
        return METHODS[method](**switches)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"method {method!r}: {error}") from error
