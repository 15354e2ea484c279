"""An epoch's sums, kept on the device and read once: losses, and what the classroom decided."""

from collections.abc import Sequence
from typing import Any

import torch

from kdcache.classroom import LossOutput

LOSSES = ("train_loss", "task_loss", "mentor_loss")
PER_MENTOR = ("active", "weight", "gap", "temperature")
FILTER_IDLE = 0.98
UNSUPERVISED = 0.50


class Tally:
    """Sums over the samples of an epoch; float64 where the device has it.

    `active` is the share of samples a mentor taught; weight, gap and temperature are means over
    those samples only.
    """

    def __init__(self, mentors: Sequence[str], device: torch.device) -> None:
        self.mentors = tuple(mentors)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        size = 1 + len(LOSSES) + len(PER_MENTOR) * len(mentors) + 1
        self.sums = torch.zeros(size, dtype=dtype, device=device)

    def add(self, out: LossOutput) -> None:
        """One batch, with each loss's mean weighted by the batch's samples. No synchronisation."""
        active_BM = out.active_BM.to(self.sums.dtype)
        samples = len(active_BM)
        losses = torch.stack([out.total, out.task, out.mentor]).detach().to(self.sums.dtype)
        per_mentor = [active_BM.sum(0)]
        for values_BM in (out.weight_BM, out.gap_BM, out.temperature_BM):
            per_mentor.append((active_BM * values_BM.to(self.sums.dtype)).sum(0))
        untaught = (active_BM.sum(1) == 0).sum().to(self.sums.dtype)
        head = torch.full((1,), samples, dtype=self.sums.dtype, device=self.sums.device)
        self.sums += torch.cat([head, losses * samples, *per_mentor, untaught[None]])

    def record(self) -> dict[str, Any]:
        """The epoch's means. Waits for the device."""
        samples, *rest = self.sums.tolist()
        losses, rest = rest[: len(LOSSES)], rest[len(LOSSES) :]
        record: dict[str, Any] = {
            name: value / samples for name, value in zip(LOSSES, losses, strict=True)
        }
        count = len(self.mentors)
        active = rest[:count]
        classroom: dict[str, dict[str, float]] = {
            "active": {m: n / samples for m, n in zip(self.mentors, active, strict=True)}
        }
        for position, name in enumerate(PER_MENTOR[1:], start=1):
            sums = rest[position * count : (position + 1) * count]
            classroom[name] = {
                m: (value / n if n else 0.0)
                for m, value, n in zip(self.mentors, sums, active, strict=True)
            }
        if count:
            record["classroom"] = {**classroom, "untaught": rest[-1] / samples}
        return record


def filter_warnings(record: dict[str, Any]) -> dict[str, str]:
    """What a user should know about an epoch's knowledge filter: short name -> sentence."""
    classroom = record.get("classroom")
    if classroom is None:
        return {}
    idle = [f"{m} {share:.1%}" for m, share in classroom["active"].items() if share > FILTER_IDLE]
    warnings = {}
    if idle:
        warnings["filter idle"] = f"these mentors taught nearly every sample: {', '.join(idle)}"
    if classroom["untaught"] > UNSUPERVISED:
        warnings["student unsupervised"] = (
            f"no mentor taught {classroom['untaught']:.1%} of the samples"
        )
    return warnings
