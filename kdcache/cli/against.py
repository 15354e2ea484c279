"""How `kdcache inspect --against` shows a classroom."""

from collections.abc import Sequence
from typing import Any

from kdcache.cli.printing import tell, tell_all

FEW = 3  # classes named at either end


def print_classroom(found: dict[str, Any]) -> None:
    """Who would teach, how far ahead, and on which classes most and least."""
    student, views = found["student"], found["views"]
    listed = ", ".join(map(str, views[:8])) + (", .." if len(views) > 8 else "")
    tell(
        f"student      {student['network']}{_how_far(student)}, {student['checkpoint']}\n"
        f"seen on      view{'s' if len(views) > 1 else ''} {listed} of {found['samples']:,} "
        f"samples: top-1 {student['accuracy']:.2f}, mean p(true) {student['confidence']:.3f}\n"
        f"filter       ClassroomKD per sample, tau {found['tau']:g}"
    )
    tell(
        f"{'mentor':<12}{'teaches':>8}  {'weight':>6}  {'gap':>5}  {'temp.':>5}  {'p(true)':>7}  "
        f"{'top-1':>6}  most and least on classes"
    )
    tell_all([_line(mentor) for mentor in found["mentors"]])
    tell(f"{'nobody':<12}{found['untaught']:>8.1%}")
    if found["never"]:
        tell_all([f"would never teach: {name}" for name in found["never"]])
    if found["hardly"]:
        tell_all([f"would teach less than 1%: {name}" for name in found["hardly"]])


def _how_far(student: dict[str, Any]) -> str:
    if student["epochs"] is None:
        return ""
    steps = f" and {student['steps']:,} steps" if student["steps"] else ""
    plural = "" if student["epochs"] == 1 else "s"
    return f" after {student['epochs']} epoch{plural}{steps}"


def _line(mentor: dict[str, Any]) -> str:
    decided = [
        "-" if mentor[key] is None else f"{mentor[key]:.{digits}f}"
        for key, digits in (("weight", 2), ("gap", 2), ("temperature", 1))
    ]
    return (
        f"{mentor['name']:<12}{mentor['active']:>8.1%}  {decided[0]:>6}  {decided[1]:>5}  "
        f"{decided[2]:>5}  {mentor['confidence']:>7.3f}  {mentor['accuracy']:>6.2f}  "
        f"{_ends(mentor['active_by_class'])}"
    )


def _ends(share_C: Sequence[float | None]) -> str:
    """The few classes with the largest and the smallest shares; ties by class id."""
    known = [(share, c) for c, share in enumerate(share_C) if share is not None]
    most = sorted(known, key=lambda pair: (-pair[0], pair[1]))
    few = min(FEW, len(known) // 2)
    named = [f"{c} ({share:.0%})" for share, c in most]
    if not few:
        return ", ".join(named)
    return f"{', '.join(named[:few])} .. {', '.join(named[-few:])}"
