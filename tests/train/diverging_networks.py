"""Students that fail at a known step, named as module:factory. Their count is in their state."""

import torch
from torch import Tensor, nn

LAST_GOOD = 8  # training steps whose logits are finite


class Diverging(nn.Module):
    """One linear layer on digits; from the ninth training step one logit is `value`."""

    steps: Tensor

    def __init__(self, num_classes: int, value: float) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._value = value

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(pixels_BCHW.flatten(1))
        self.steps += self.training
        if self.training and self.steps > LAST_GOOD:
            logits_BC = logits_BC.clone()
            logits_BC[0, 0] = self._value
        return logits_BC


def to_nan(num_classes: int) -> nn.Module:
    return Diverging(num_classes, float("nan"))


def to_infinity(num_classes: int) -> nn.Module:
    return Diverging(num_classes, float("-inf"))


class Unbounded(nn.Module):
    """Finite logits, finite loss; a buffer of it overflows in the third training step."""

    largest: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)
        self.register_buffer("largest", torch.full((), 3e30))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(pixels_BCHW.flatten(1))
        if self.training:
            self.largest *= 1e4
        return logits_BC


def to_a_lost_weight(num_classes: int) -> nn.Module:
    return Unbounded(num_classes)
