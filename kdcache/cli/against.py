"""How `kdcache inspect --against` shows a classroom."""

from collections.abc import Sequence
from typing import Any

from kdcache.cli.printing import tell, tell_all

FEW = 3  # classes named at either end
MOST_COLUMNS = 8  # mentors of a table of joints


def print_classroom(found: dict[str, Any]) -> None:
    """Who would teach, how far ahead, and on which classes or joints most and least."""
    of_people = "joints" in found
    student, views = found["student"], found["views"]
    listed = ", ".join(map(str, views[:8])) + (", .." if len(views) > 8 else "")
    right = f"top-1 {_number(student.get('accuracy'), 2)}, mean p(true)"
    if of_people:
        right = f"sees {_number(student['sees'], 0)}% of labelled joints, mean a_j"
    tell(
        f"student      {student['network']}{_how_far(student)}, {student['checkpoint']}\n"
        f"seen on      view{'s' if len(views) > 1 else ''} {listed} of {found['samples']:,} "
        f"samples: {right} {_number(student['confidence'], 3)}\n"
        f"filter       ClassroomKD per {'joint' if of_people else 'sample'}, tau {found['tau']:g}"
    )
    if of_people:
        _print_joints(found)
    columns = f"{'mentor':<12}{'teaches':>8}  {'weight':>6}  {'gap':>5}  {'temp.':>5}"
    if of_people:
        tell(f"{columns}  {'a_j':>7}  {'sees':>6}")
    else:
        tell(f"{columns}  {'p(true)':>7}  {'top-1':>6}  most and least on classes")
    tell_all([_line(mentor) for mentor in found["mentors"]])
    tell(f"{'nobody':<12}{_share(found['untaught'], 1):>8}")
    if found["never"]:
        tell_all([f"would never teach: {name}" for name in found["never"]])
    if found["hardly"]:
        tell_all([f"would teach less than 1%: {name}" for name in found["hardly"]])


def _print_joints(found: dict[str, Any]) -> None:
    """A line a joint: on how many it is labelled, who would teach which share of them."""
    joints, mentors = found["joints"], found["mentors"]
    shown = mentors[:MOST_COLUMNS]
    names = "".join(f"  {mentor['name']:>9.12}" for mentor in shown)
    tell(f"{'joint':<16}{'labelled':>8}  {'student':>7}{names}  {'nobody':>7}")
    for j, joint in enumerate(joints["names"]):
        shares = "".join(f"  {_share(m['active_by_joint'][j]):>{_width(m)}}" for m in shown)
        tell(
            f"{joint:<16}{joints['labelled'][j]:>8,}  {_number(joints['confidence'][j], 3):>7}"
            f"{shares}  {_share(joints['untaught'][j]):>7}"
        )
    if len(mentors) > len(shown):
        tell(f"and {len(mentors) - len(shown):,} mentors more; --json lists all")
    tell("")


def _width(mentor: dict[str, Any]) -> int:
    return max(9, len(mentor["name"][:12]))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _how_far(student: dict[str, Any]) -> str:
    if student["epochs"] is None:
        return ""
    steps = f" and {student['steps']:,} steps" if student["steps"] else ""
    plural = "" if student["epochs"] == 1 else "s"
    return f" after {student['epochs']} epoch{plural}{steps}"


def _line(mentor: dict[str, Any]) -> str:
    decided = "".join(
        f"  {_number(mentor[key], digits):>{width}}"
        for key, digits, width in (("weight", 2, 6), ("gap", 2, 5), ("temperature", 1, 5))
    )
    line = f"{mentor['name']:<12}{mentor['active']:>8.1%}{decided}"
    line += f"  {_number(mentor['confidence'], 3):>7}"
    if "sees" in mentor:
        return f"{line}  {_share(None if mentor['sees'] is None else mentor['sees'] / 100):>6}"
    return f"{line}  {mentor['accuracy']:>6.2f}  {_ends(mentor['active_by_class'])}"


def _ends(share_C: Sequence[float | None]) -> str:
    """The few classes with the largest and the smallest shares; ties by class id."""
    known = [(share, c) for c, share in enumerate(share_C) if share is not None]
    most = sorted(known, key=lambda pair: (-pair[0], pair[1]))
    few = min(FEW, len(known) // 2)
    named = [f"{c} ({share:.0%})" for share, c in most]
    if not few:
        return ", ".join(named)
    return f"{', '.join(named[:few])} .. {', '.join(named[-few:])}"
