"""ResNet-50 for small images: He et al. 2015, table 1 (https://arxiv.org/abs/1512.03385).

As in the CRD benchmark (Tian et al. 2019, https://arxiv.org/abs/1910.10699): a 3x3 stem that keeps
the image's size, no pooling behind it, and a block's stride on its 3x3 convolution, where the paper
has it on the first 1x1. Modules are named as in the benchmark's checkpoints (conv1, bn1,
layer1.0.conv1 .. layer1.0.shortcut.0, linear), so that those load as they are.

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError

_STEM_WIDTH = 64
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # inner width, blocks
_EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class BottleneckResNetConfig:
    """ResNet-50: the stem, 16 blocks of three convolutions, one linear layer."""

    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, and a shortcut; the ReLU comes after the sum (figure 5)."""

    def __init__(self, width_in: int, inner: int, stride: int) -> None:
        super().__init__()
        width = inner * _EXPANSION
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = maps_BCHW if self.shortcut is None else self.shortcut(maps_BCHW)
        residual_BCHW = F.relu(self.bn1(self.conv1(maps_BCHW)), inplace=True)
        residual_BCHW = F.relu(self.bn2(self.conv2(residual_BCHW)), inplace=True)
        residual_BCHW = self.bn3(self.conv3(residual_BCHW))
        return F.relu(residual_BCHW + shortcut_BCHW, inplace=True)


class BottleneckResNet(nn.Module):
    """A ResNet-50: float pixels_BCHW (3 channels, normalised, of any size) -> logits_BC."""

    def __init__(self, config: BottleneckResNetConfig) -> None:
        super().__init__()
        self.config = config
        (inner1, blocks1), (inner2, blocks2), (inner3, blocks3), (inner4, blocks4) = _STAGES
        self.conv1 = nn.Conv2d(3, _STEM_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_WIDTH)
        self.layer1 = _stage(_STEM_WIDTH, inner1, blocks1, stride=1)
        self.layer2 = _stage(inner1 * _EXPANSION, inner2, blocks2, stride=2)
        self.layer3 = _stage(inner2 * _EXPANSION, inner3, blocks3, stride=2)
        self.layer4 = _stage(inner3 * _EXPANSION, inner4, blocks4, stride=2)
        self.linear = nn.Linear(inner4 * _EXPANSION, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = F.relu(self.bn1(self.conv1(pixels_BCHW)), inplace=True)
        maps_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(maps_BCHW))))
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.linear(self.pooled_features(pixels_BCHW))
        return logits_BC


def _stage(width_in: int, inner: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(inner * _EXPANSION, inner, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(width_in, inner, stride), *rest)
