"""VGG for small images: Simonyan and Zisserman 2014, table 1 (https://arxiv.org/abs/1409.1556).

As in the CRD benchmark (Tian et al. 2019, https://arxiv.org/abs/1910.10699): BatchNorm behind every
convolution, which keeps its bias; one linear layer where the paper has three; no pooling between
the fourth and the fifth stage, and an average instead of the last. Modules are named as in the
benchmark's checkpoints (block0.0, block0.1 .. classifier), so that those load as they are.

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.initialisation import draw_by_fan_out

# Convolutions a stage. 13 is the paper's configuration B; 8, the benchmark's own, halves it.
_CONVOLUTIONS = {8: 1, 13: 2}
_WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """Five stages of 3x3 convolutions; the depth counts the paper's three linear layers too."""

    depth: int
    num_classes: int

    def __post_init__(self) -> None:
        if self.depth not in _CONVOLUTIONS:
            raise UsageError(f"a CIFAR VGG's depth is 8 or 13, got {self.depth}")
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class VGG(nn.Module):
    """A VGG: float pixels_BCHW (3 channels, normalised, at least 8x8) -> logits_BC.

    Raises `UsageError` (from its config) for a depth other than 8 and 13.
    """

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        self.config = config
        convolutions = _CONVOLUTIONS[config.depth]
        self.block0 = _stage(3, _WIDTHS[0], convolutions)
        self.block1 = _stage(_WIDTHS[0], _WIDTHS[1], convolutions)
        self.block2 = _stage(_WIDTHS[1], _WIDTHS[2], convolutions)
        self.block3 = _stage(_WIDTHS[2], _WIDTHS[3], convolutions)
        self.block4 = _stage(_WIDTHS[3], _WIDTHS[4], convolutions)
        self.classifier = nn.Linear(_WIDTHS[4], config.num_classes)
        draw_by_fan_out(self)

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = F.relu(self.block0(pixels_BCHW), inplace=True)
        for block in (self.block1, self.block2, self.block3):
            maps_BCHW = F.relu(block(F.max_pool2d(maps_BCHW, 2)), inplace=True)
        if pixels_BCHW.shape[2] == 64:  # Tiny ImageNet's: the benchmark pools these once more
            maps_BCHW = F.max_pool2d(maps_BCHW, 2)
        maps_BCHW = F.relu(self.block4(maps_BCHW), inplace=True)
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.classifier(self.pooled_features(pixels_BCHW))
        return logits_BC


def _stage(width_in: int, width: int, convolutions: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, ..; the last ReLU is the caller's, as in the checkpoints."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        if number:
            layers.append(nn.ReLU(inplace=True))
        convolution = nn.Conv2d(width if number else width_in, width, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)
