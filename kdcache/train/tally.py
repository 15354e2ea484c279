"""An epoch's sums, kept on the device and read once: losses, and what the classroom decided."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdcache.classroom import LossOutput
from kdcache.train.class_sums import TAUGHT, sum_by_class, taught

LOSSES = ("train_loss", "task_loss", "mentor_loss")
FILTER_IDLE = 0.98
UNSUPERVISED = 0.50


class Tally:
    """Sums over the samples of an epoch; float64 where the device has it.

    `num_classes`: count each class by itself, too; None: only the epoch as a whole. `sums` is the
    whole state, one tensor.

    Shapes: B batch, M mentors, C classes, K = 1 + M terms of the loss.
    """

    def __init__(
        self, mentors: Sequence[str], device: torch.device, *, num_classes: int | None = None
    ) -> None:
        self.mentors = tuple(mentors)
        self._classes = (num_classes or 0) if mentors else 0
        M, C = len(self.mentors), self._classes
        self._sizes = {
            "samples": 1,
            "untaught": 1,
            "losses": len(LOSSES),
            "taught": len(TAUGHT) * M,
            "terms": M,
            "pulls": 1 + M,
            "classes": C * (1 + 2 * M),  # samples, then active, then weight of each mentor
        }
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(sum(self._sizes.values()), dtype=dtype, device=device)

    def clear(self) -> None:
        """Begins another epoch."""
        self.sums.zero_()

    def add(self, out: LossOutput, labels_B: Tensor, scale: Tensor | None = None) -> None:
        """One batch, after its backward pass. No synchronisation.

        A loss counts with its mean times the batch's samples. `scale` (): what a gradient scaler
        multiplied the loss by.
        """
        dtype, samples = self.sums.dtype, len(labels_B)
        losses = torch.stack([out.total, out.task, out.mentor]).detach().to(dtype)
        taught_BX = taught(out, dtype)
        assert out.seen_BKC.grad is not None, "a tally is taken after the backward pass"
        # The gradient is that of the batch's mean, so a sample's own is B times as long.
        pull_K = torch.linalg.vector_norm(out.seen_BKC.grad, dim=2, dtype=dtype).sum(0) * samples
        parts = [
            losses.new_full((1,), samples),
            (~out.active_BM.any(dim=1)).sum(0, keepdim=True).to(dtype),
            losses * samples,
            taught_BX.sum(0),
            out.term_BM.to(dtype).sum(0),
            pull_K if scale is None else pull_K / scale,
        ]
        if self._classes:
            counted_BX = torch.cat(
                [torch.ones_like(taught_BX[:, :1]), taught_BX[:, : 2 * len(self.mentors)]], dim=1
            )
            parts.append(sum_by_class(labels_B, counted_BX, self._classes).T.flatten())
        self.sums += torch.cat(parts)

    def record(self) -> dict[str, Any]:
        """The epoch's means, and what the classroom decided. Waits for the device.

        `classroom`, by mentor: `active`, the share of samples that it taught; `weight`, `gap` and
        `temperature`, means over those samples; `loss_share`, its terms' part of the loss;
        `gradient_share`, its terms' part of the gradient at the logits: the mean over samples of
        that gradient's norm, over the sum of these means of all terms. `task` has the two shares of
        the labels' term, `untaught` the share of samples without any active mentor. With classes
        `per_class`: the samples of each class id; by mentor, lists by class id of `active` and
        `weight`, None where none was counted.
        """
        parts = torch.split(self.sums.cpu(), list(self._sizes.values()))
        sums = dict(zip(self._sizes, parts, strict=True))
        samples = sums["samples"].item()
        losses = sums["losses"].tolist()
        record: dict[str, Any] = {
            name: value / samples for name, value in zip(LOSSES, losses, strict=True)
        }
        if self.mentors:
            record["classroom"] = self._classroom(sums, samples)
        return record

    def _classroom(self, sums: dict[str, Tensor], samples: float) -> dict[str, Any]:
        active_M, *others = sums["taught"].view(len(TAUGHT), -1).tolist()
        total, task, _ = sums["losses"].tolist()
        pull, *pull_M = sums["pulls"].tolist()
        pulls = pull + sum(pull_M)
        classroom: dict[str, Any] = {"active": self._named([n / samples for n in active_M])}
        for name, sum_M in zip(TAUGHT[1:], others, strict=True):
            shares_M = [_part(s, n) for s, n in zip(sum_M, active_M, strict=True)]
            classroom[name] = self._named(shares_M)
        classroom["loss_share"] = self._named([_part(t, total) for t in sums["terms"].tolist()])
        classroom["gradient_share"] = self._named([_part(p, pulls) for p in pull_M])
        classroom["task"] = {
            "loss_share": _part(task, total),
            "gradient_share": _part(pull, pulls),
        }
        classroom["untaught"] = sums["untaught"].item() / samples
        if self._classes:
            classroom["per_class"] = self._per_class(sums["classes"])
        return classroom

    def _per_class(self, sums: Tensor) -> dict[str, Any]:
        samples_C, *rest = sums.view(-1, self._classes).tolist()
        active_MC, weight_MC = rest[: len(self.mentors)], rest[len(self.mentors) :]
        return {
            "samples": [int(n) for n in samples_C],
            "active": self._named([_by_class(active_C, samples_C) for active_C in active_MC]),
            "weight": self._named(
                [_by_class(w_C, a_C) for w_C, a_C in zip(weight_MC, active_MC, strict=True)]
            ),
        }

    def _named(self, values_M: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.mentors, values_M, strict=True))


def _part(value: float, whole: float) -> float:
    return value / whole if whole else 0.0


def _by_class(values_C: Sequence[float], counts_C: Sequence[float]) -> list[float | None]:
    return [value / n if n else None for value, n in zip(values_C, counts_C, strict=True)]


def filter_warnings(record: dict[str, Any]) -> dict[str, str]:
    """What a user should know about an epoch's knowledge filter: short name -> sentence.

    For losses that have one (`classroom.has_filter`): without, every mentor teaches every sample.
    """
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
