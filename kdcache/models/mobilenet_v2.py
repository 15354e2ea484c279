"""MobileNetV2: Sandler et al. 2018, table 2 (https://arxiv.org/abs/1801.04381).

As in the CRD benchmark (Tian et al. 2019, https://arxiv.org/abs/1910.10699), for images of 32
pixels and half as wide: the second stage does not halve the maps, ReLU stands for ReLU6, widths are
cut to integers and not rounded to multiples of 8 (the last stays 1280), the first block keeps its
1x1 convolution although it expands by 1, and there is no dropout. Modules are named as in the
benchmark's checkpoints (conv1.0, blocks.0.0.conv.0 .. classifier.0), so that those load as they
are.

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.initialisation import draw_by_fan_out

# Sandler et al., table 2: expansion, width, blocks, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # the paper's stride is 2
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM_WIDTH = 32
_LAST_WIDTH = 1280


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Config:
    """`width` multiplies all widths but the last; the CRD benchmark's has 0.5."""

    num_classes: int
    width: float = 0.5

    def __post_init__(self) -> None:
        if not 1 / 16 <= self.width <= 1:  # thinner, the first block would have no channel
            raise UsageError(f"a MobileNetV2's width is from 1/16 to 1, got {self.width}")
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow without ReLU (Sandler et al., figure 4)."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.adds_input = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        residual_BCHW: Tensor = self.conv(maps_BCHW)
        return maps_BCHW + residual_BCHW if self.adds_input else residual_BCHW


class MobileNetV2(nn.Module):
    """A MobileNetV2: float pixels_BCHW (3 channels, normalised, of any size) -> logits_BC.

    Raises `UsageError` (from its config) for a width outside [1/16, 1].
    """

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.config = config
        width_in = int(_STEM_WIDTH * config.width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width_in, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_in),
            nn.ReLU(inplace=True),
        )
        stages = []
        for expansion, full_width, blocks, stride in _STAGES:
            width = int(full_width * config.width)
            first = InvertedResidual(width_in, width, stride, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
            width_in = width
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(
            nn.Conv2d(width_in, _LAST_WIDTH, 1, bias=False),
            nn.BatchNorm2d(_LAST_WIDTH),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Linear(_LAST_WIDTH, config.num_classes))
        draw_by_fan_out(self)

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = self.conv2(self.blocks(self.conv1(pixels_BCHW)))
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.classifier(self.pooled_features(pixels_BCHW))
        return logits_BC
