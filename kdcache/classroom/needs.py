"""What a loss needs from whoever calls it: how many mentors, which kinds of targets, which tensors.

A trainer reads `loss.needs` before its first step, so that a store without the targets a method
needs is refused there; the loss itself checks the number of mentors it is given.

    loss = build_loss("ca-mkd")
    loss.needs.least_mentors                      # 2
    loss.needs.require("ca-mkd", mentors=1)       # ValueError, saying what to do instead
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a loss must be given beside student logits and labels; nothing more is passed to it."""

    least_mentors: int = 1
    """With fewer the method has no meaning. 0: the mentors' logits may be None."""

    most_mentors: int | None = None
    """With more it would not be clear which is meant. None: any number."""

    mentor_order: bool = False
    """A switch counts positions among the mentors: their order must be one the caller chose."""

    raw_logits: bool = False
    """`mentor_logits_BMC` must be raw logits: log-probabilities plus each row's logsumexp."""

    student_features: bool = False
    """Called with `student_features_BF`, (B, F) with gradient: what the classifier is given."""

    mentor_features: bool = False
    """Called with `mentor_features`, a sequence of M float32 (B, F_m) in the mentors' order."""

    def require(self, method: str, mentors: int) -> None:
        """ValueError unless so many mentors can teach by this method."""
        if self.most_mentors is not None and mentors > self.most_mentors:
            most = "exactly one mentor is" if self.most_mentors == 1 else "at most "
            most += "" if self.most_mentors == 1 else f"{self.most_mentors} mentors are"
            raise ValueError(
                f"{method}: {most} needed, got {mentors}; choose one, "
                "or use method 'average' for several"
            )
        if mentors < self.least_mentors:
            single = ", or use method 'kd' for a single one" if mentors == 1 else ""
            raise ValueError(
                f"{method}: at least {self.least_mentors} mentors are needed, got {mentors}; "
                f"add one{single}"
            )
