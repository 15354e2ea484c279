"""The sizes that a loss with parameters of its own is made for.

Amtml().for_shapes(LossShapes(num_mentors=4, num_classes=100, student_features=64), seed=0)
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossShapes:
    """Mentors, classes and widths as the run has them, and how long it is."""

    num_mentors: int
    """M."""

    num_classes: int
    """C."""

    student_features: int
    """F, the width of what the student's classifier is given."""

    mentor_features: tuple[int, ...] | None = None
    """F_m of each mentor in order; None where the targets hold no features."""

    epochs: int | None = None
    """Of the whole run, which phases are shares of; None: as many as the method's paper has."""
