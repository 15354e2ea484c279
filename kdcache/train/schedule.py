"""Learning rate by epoch."""

import math
from collections.abc import Callable

from kdcache.errors import unknown_name

Schedule = Callable[[int, int], float]  # (epoch from 0, epochs) -> factor of the base rate


def released(epoch: int, epochs: int) -> float:
    """The released ClassroomKD recipe, stretched to `epochs`.

    Of 240 epochs: falls linearly from 1 to 1/5 (0.05 to 0.01) over the first 120, stays, then x0.1
    at 150, 180 and 210.
    """
    of_240 = epoch * 240 / epochs
    drops = sum(of_240 >= milestone for milestone in (150, 180, 210))
    return (1 - 0.8 * min(1.0, of_240 / 120)) * 0.1**drops


def cosine(epoch: int, epochs: int) -> float:
    """Half a cosine from 1 towards 0 (Loshchilov and Hutter, arXiv 1608.03983, no restarts)."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def amtml(epoch: int, epochs: int) -> float:
    """The student's rate in AMTML-KD (arXiv 2103.04062), stretched to `epochs`.

    Of the authors' 280 epochs: 1 in the 80 of phase 1, and x0.1 at 100 and 150 of the 200 of
    phase 2, which begins at 1 again; so 1, x0.1 at 180 and 230. What the loss itself learns has a
    schedule of its own (`kdcache.classroom.AmtmlLoss`).
    """
    return 0.1 ** sum(epoch * 280 >= at * epochs for at in (80 + 100, 80 + 150))


def steps_210(epoch: int, epochs: int) -> float:
    """HRNet's (arXiv 1902.09212, section 4.1): x0.1 at 170 and 200 of 210, stretched."""
    return 0.1 ** sum(epoch * 210 >= at * epochs for at in (170, 200))


def steps_140(epoch: int, epochs: int) -> float:
    """SimpleBaseline's (arXiv 1804.06208, section 3): x0.1 at 90 and 120 of 140, stretched."""
    return 0.1 ** sum(epoch * 140 >= at * epochs for at in (90, 120))


SCHEDULES: dict[str, Schedule] = {
    "released": released,
    "cosine": cosine,
    "amtml": amtml,
    "steps-210": steps_210,
    "steps-140": steps_140,
}


def learning_rate(schedule: str, base: float, epoch: int, epochs: int) -> float:
    """The rate of one epoch. Raises UsageError for an unknown schedule."""
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    return base * SCHEDULES[schedule](epoch, epochs)
