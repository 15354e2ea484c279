"""Notices the first step whose numbers are not finite, without waiting for the device.

On the CPU the step itself is stopped, before its backward pass. A GPU runs behind its host, so the
number of its first bad step stays there; a copy of it is under way all the time and is looked at
once it has arrived, some steps later. `settle` waits for it: before anything is kept.

    watch.see(step, logits_BC, out.total)         # in every step
    watch.settle(step, weights)                   # before a checkpoint, and at an epoch's end

Only logits, loss and weights count: with fp16 an infinite gradient is ordinary, and the gradient
scaler leaves that step out.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kdcache.errors import RunFailed

_NONE = torch.iinfo(torch.int64).max
_LOGITS, _LOSS, _WEIGHTS = "the student's logits", "the loss", "the weights"


class FiniteWatch:
    """The first bad step of an epoch; `explain(step, what)` makes the error of it.

    Steps count from 1. After an error the run is over: nothing is reset. `at_once`: whether `see`
    looks at the numbers themselves; None: on the CPU, where nothing is waited for.
    """

    def __init__(
        self,
        device: torch.device,
        explain: Callable[[int, str], RunFailed],
        *,
        at_once: bool | None = None,
    ) -> None:
        self._device, self._explain = device, explain
        self._at_once = device.type == "cpu" if at_once is None else at_once
        # 2 * step, and 1 more where the logits were finite and only the loss was not.
        self._first_bad = torch.full((), _NONE, dtype=torch.int64, device=device)
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._copy = torch.full((), _NONE, dtype=torch.int64, pin_memory=True)

    def see(self, step: int, logits_BC: Tensor, total: Tensor) -> None:
        """A step's logits (B, C) and loss (), before its backward pass. Never waits for a GPU.

        Raises RunFailed for this step where it looks at once; on CUDA for an earlier one of which
        the news has come in.
        """
        fine_logits = torch.isfinite(logits_BC.detach()).all()
        fine = fine_logits & torch.isfinite(total.detach())
        if self._at_once:
            if not fine:
                raise self._explain(step, _LOSS if fine_logits else _LOGITS)
            return
        bad = (2 * step + fine_logits.long()).masked_fill(fine, _NONE)
        self._first_bad = torch.minimum(self._first_bad, bad)
        if self._device.type == "cuda":
            self._look_without_waiting()

    def settle(self, step: int, weights: Iterable[Tensor]) -> None:
        """Waits for the device. Raises RunFailed for a bad step, or when after `step`, the last
        one taken, a weight is not finite."""
        self._require_fine(int(self._first_bad))
        fine = [torch.isfinite(weight.detach()).all() for weight in weights]
        if fine and not torch.stack(fine).all():
            raise self._explain(step, _WEIGHTS)

    def _look_without_waiting(self) -> None:
        if self._arrived is not None:
            if not self._arrived.query():  # type: ignore[no-untyped-call]
                return
            self._require_fine(int(self._copy))
        stream = torch.cuda.current_stream(self._device)
        self._copy.copy_(self._first_bad, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record(stream)

    def _require_fine(self, first_bad: int) -> None:
        if first_bad != _NONE:
            raise self._explain(first_bad // 2, _LOSS if first_bad % 2 else _LOGITS)
