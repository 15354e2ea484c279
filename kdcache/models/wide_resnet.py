"""Wide ResNets, pre-activation, no dropout: Zagoruyko 2016 (https://arxiv.org/abs/1605.07146).

Modules are named as in the CRD benchmark's checkpoints (conv1, block1.layer.0.bn1 .. convShortcut,
bn1, fc), so that those load as they are.

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class WideResNetConfig:
    """WRN-depth-width: depth 6n + 4, n blocks a stage; stages 16, 32, 64 times `width` wide."""

    depth: int
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UsageError(f"a Wide ResNet's depth is 6n + 4 (10, 16, 22, ..), got {self.depth}")
        if self.width < 1:
            raise UsageError(f"a Wide ResNet's width is at least 1, got {self.width}")
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice; a 1x1 shortcut starts behind the first ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if stride != 1 or width_in != width:
            self.convShortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn1(maps_BCHW), inplace=True)
        shortcut_BCHW = maps_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW)
        residual_BCHW = F.relu(self.bn2(self.conv1(active_BCHW)), inplace=True)
        sum_BCHW: Tensor = self.conv2(residual_BCHW) + shortcut_BCHW
        return sum_BCHW


class WideStage(nn.Module):
    """n blocks; a module of its own only because the checkpoints name it `block1.layer.0`."""

    def __init__(self, width_in: int, width: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(width_in, width, stride)
        self.layer = nn.Sequential(first, *(WideBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.layer(maps_BCHW)
        return out_BCHW


class WideResNet(nn.Module):
    """A Wide ResNet: float pixels_BCHW (3 channels, normalised, at least 4x4) -> logits_BC.

    Raises `UsageError` (from its config) for a depth that is not 6n + 4.
    """

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        blocks = (config.depth - 4) // 6
        width1, width2, width3 = 16 * config.width, 32 * config.width, 64 * config.width
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(16, width1, blocks, stride=1)
        self.block2 = WideStage(width1, width2, blocks, stride=2)
        self.block3 = WideStage(width2, width3, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(width3)
        self.fc = nn.Linear(width3, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = self.block3(self.block2(self.block1(self.conv1(pixels_BCHW))))
        maps_BCHW = F.relu(self.bn1(maps_BCHW), inplace=True)
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.fc(self.pooled_features(pixels_BCHW))
        return logits_BC
