"""What is different in two stores, from their documents and commit records: no chunk is read.

Where a difference is found, what lies below it is not compared: stores of other views have no chunk
in common, and chunks of a mentor that was made otherwise are all others.
"""

import os
from dataclasses import dataclass
from typing import Any

from kdcache.encode import KINDS
from kdcache.errors import both_sides, differences
from kdcache.store import StoredMentor, TargetStore, open_store, title
from kdcache.two_stores import described_targets, described_views

Sides = dict[str, tuple[object, object]]


@dataclass(frozen=True, kw_only=True)
class TargetsDifference:
    """One mentor's targets of one kind that both stores have.

    `fields`: what decides the targets, where it differs; then nothing else was compared. Else the
    chunks, as (view, block): only in one, in both with other bytes, and how many are in both alike.
    `views`: how many each declares, where these differ. `problems`: what cannot be read in either.
    """

    title: str
    fields: Sides
    only_left: tuple[tuple[int, int], ...] = ()
    only_right: tuple[tuple[int, int], ...] = ()
    other_bytes: tuple[tuple[int, int], ...] = ()
    same: int = 0
    views: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()

    @property
    def alike(self) -> bool:
        return not (
            self.fields
            or self.only_left
            or self.only_right
            or self.other_bytes
            or self.views
            or self.problems
        )


@dataclass(frozen=True, kw_only=True)
class StoreDifference:
    """Two stores, `left` and `right` (addresses), side by side.

    `views`: the fields in which their views differ. `only_left`, `only_right`: titles of targets
    that only one has. `targets`: those that both have.
    """

    left: str
    right: str
    views: Sides
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    targets: tuple[TargetsDifference, ...]

    @property
    def alike(self) -> bool:
        """Whether both hold the same targets of the same views, byte for byte."""
        return not (self.views or self.only_left or self.only_right) and all(
            one.alike for one in self.targets
        )

    def to_json(self) -> dict[str, Any]:
        """As `kdcache diff --json` prints it."""
        return {
            "alike": self.alike,
            "left": self.left,
            "right": self.right,
            "views": self.views,
            "only_left": self.only_left,
            "only_right": self.only_right,
            "targets": [{"alike": one.alike, **vars(one)} for one in self.targets],
        }

    def lines(self) -> list[str]:
        """For people: what differs, and of targets that do not how much is there."""
        found = []
        if self.views:
            table = both_sides(self.left, self.right, self.views)
            found.append(f"the views differ, so no target is of the same pixels:\n{table}")
        found += [f"only in {self.left}: mentor {name}" for name in self.only_left]
        found += [f"only in {self.right}: mentor {name}" for name in self.only_right]
        for one in self.targets:
            found += self._lines(one)
        return found

    def _lines(self, one: TargetsDifference) -> list[str]:
        if one.fields:
            table = both_sides(self.left, self.right, one.fields)
            return [f"mentor {one.title} was made otherwise:\n{table}"]
        found = [f"mentor {one.title}: {problem}" for problem in one.problems]
        if one.views is not None:
            found.append(
                f"mentor {one.title} is to have {one.views[0]} views in {self.left}, "
                f"{one.views[1]} in {self.right}"
            )
        for keys, where in (
            (one.only_left, f"only in {self.left}"),
            (one.only_right, f"only in {self.right}"),
            (one.other_bytes, "in both with other bytes (computed on different machines)"),
        ):
            if keys:
                found.append(f"mentor {one.title}, {where}: {_counted(keys)}")
        if one.same:
            found.append(f"mentor {one.title}, in both alike: {one.same:,} chunks")
        return found


def compare_stores(
    left: TargetStore | str | os.PathLike[str], right: TargetStore | str | os.PathLike[str]
) -> StoreDifference:
    """Compares two stores, paths or URLs: their views, mentors, and chunks by committed digests.

    Raises as `open_store`.
    """
    first, second = (s if isinstance(s, TargetStore) else open_store(s) for s in (left, right))
    views = differences(described_views(first.manifest), described_views(second.manifest))
    keys = [_targets_of(store) for store in (first, second)]
    both = [key for key in keys[0] if key in keys[1]]
    return StoreDifference(
        left=first.address,
        right=second.address,
        views=views,
        only_left=tuple(keys[0][key] for key in keys[0] if key not in keys[1]),
        only_right=tuple(keys[1][key] for key in keys[1] if key not in keys[0]),
        targets=tuple(
            _compare(keys[0][key], first, second, key, same_views=not views) for key in both
        ),
    )


def _targets_of(store: TargetStore) -> dict[tuple[str, str], str]:
    """Every mentor's kinds, by names, sound or not: what they are called."""
    return {
        (name, kind): title(name, KINDS[kind])
        for name in store.mentors
        for kind in store.kinds(name)
    }


def _compare(
    called: str, left: TargetStore, right: TargetStore, key: tuple[str, str], *, same_views: bool
) -> TargetsDifference:
    sides: list[StoredMentor] = []
    problems = []
    for store in (left, right):
        error = store.target_errors.get(key)
        if error is not None:
            problems.append(str(error))
            continue
        stored = store.mentor(*key)
        sides.append(stored)
        problems += [
            f"view {wrong.key[0]}, block {wrong.key[1]} is damaged in {store.address}: "
            f"{wrong.reason}"
            for wrong in stored.broken
        ]
    if len(sides) < 2:
        return TargetsDifference(title=called, fields={}, problems=tuple(problems))
    first, second = sides
    # Of other views all targets are others: the table of the views says so already.
    ignored = () if same_views else ("fingerprint",)
    fields = differences(described_targets(first), described_targets(second), ignored)
    if fields or not same_views:
        return TargetsDifference(title=called, fields=fields, problems=tuple(problems))
    common = first.commits.keys() & second.commits.keys()
    same = {key for key in common if first.commits[key].sha256 == second.commits[key].sha256}
    views = (first.declared_views, second.declared_views)
    return TargetsDifference(
        title=called,
        fields={},
        only_left=tuple(sorted(first.commits.keys() - common)),
        only_right=tuple(sorted(second.commits.keys() - common)),
        other_bytes=tuple(sorted(common - same)),
        same=len(same),
        views=None if views[0] == views[1] else views,
        problems=tuple(problems),
    )


def _counted(keys: tuple[tuple[int, int], ...]) -> str:
    views = sorted({view for view, _ in keys})
    return f"{len(keys):,} chunks of views {_ranges(views)}"


def _ranges(numbers: list[int]) -> str:
    """0 to 3, 7, 9 to 11; at most ten of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(a) if a == b else f"{a} to {b}" for a, b in runs[:10]]
    return ", ".join(told) + (f" and {len(runs) - 10:,} more" if len(runs) > 10 else "")
