"""AMTML-KD's two phases: in the first theta and W learn, in the second they stay as they are.

The numerics of the authors' notebooks (Liu et al., https://arxiv.org/abs/2103.04062): 80 epochs,
then 200. The student's own schedule is `kdcache.train.schedule.amtml`.
"""

from dataclasses import dataclass
from typing import Literal

EPOCHS, PHASE1_EPOCHS = 280, 80
RATE_DROPS = (40, 70)  # of phase 1's 80


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Which epochs, from 0, are of which phase."""

    phase1_epochs: int
    """So many come first; at 0 what is learned stays as it was drawn."""

    @classmethod
    def of_run(cls, epochs: int | None) -> "Phases":
        """The authors' share of a run of so many epochs; None: their own length.

        At least one epoch: weights that never learned choose mentors at random.
        """
        if epochs is None:
            return cls(phase1_epochs=PHASE1_EPOCHS)
        return cls(phase1_epochs=max(1, round(epochs * PHASE1_EPOCHS / EPOCHS)))

    def phase(self, epoch: int) -> Literal[1, 2]:
        """The phase of an epoch."""
        return 1 if epoch < self.phase1_epochs else 2

    def rate_factor(self, epoch: int) -> float:
        """Of theta's and W's learning rate: 1, then x0.1 at 40 and at 70 of 80, stretched."""
        drops = sum(epoch * PHASE1_EPOCHS >= at * self.phase1_epochs for at in RATE_DROPS)
        return 0.1**drops
