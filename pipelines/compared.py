"""What a story compares: arms by name, each a method of kdcache with switches."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.classroom import METHODS, build_method, methods_of
from kdcache.errors import UsageError, unknown_name
from kdcache.tasks import CLASSIFICATION

Arms = dict[str, tuple[str, dict[str, Any]]]  # name -> method and its switches


def choose_arms(
    names: Sequence[str],
    num_mentors: int,
    switches: Mapping[str, tuple[str, dict[str, Any]]],
    task: str = CLASSIFICATION,
) -> Arms:
    """Those of these names: in `switches`, else the method of that name.

    Raises UsageError for a name that is neither, and for a method that so many mentors cannot teach
    by (`kd` is taught by one of them).
    """
    methods = methods_of(task)
    arms = {name: switches.get(name, (name, {})) for name in names}
    for method, chosen in arms.values():
        if method not in METHODS:  # one of another task says more below
            raise unknown_name("method", method, (*methods, *switches))
        needs = build_method(method, task=task, **chosen).needs
        try:
            needs.require(method, 1 if method == "kd" else num_mentors)
        except ValueError as error:
            raise UsageError(f"{error}: --mentors, or leave it out of --methods") from error
    return arms
