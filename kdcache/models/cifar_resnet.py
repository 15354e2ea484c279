"""ResNets for small images: He et al. 2015, section 4.2 (https://arxiv.org/abs/1512.03385).

The x4 members are the CRD benchmark's (Tian et al. 2019, https://arxiv.org/abs/1910.10699), and so
is the shortcut: a 1x1 convolution with BatchNorm wherever stride or width changes, where He et al.
pad with zeros. Modules are named as in the public CIFAR checkpoints (conv1, bn1, layer1.0.conv1 ..
layer2.0.downsample.0, fc).

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CifarResNetConfig:
    """Depth 6n + 2: one stem convolution, three stages of n blocks of two, one linear layer."""

    depth: int
    num_classes: int
    stem_width: int = 16
    stage_widths: tuple[int, int, int] = (16, 32, 64)

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise UsageError(f"a CIFAR ResNet's depth is 6n + 2 (8, 14, 20, ..), got {self.depth}")
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the ReLU comes after the sum (He et al., figure 2)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = maps_BCHW if self.downsample is None else self.downsample(maps_BCHW)
        residual_BCHW = F.relu(self.bn1(self.conv1(maps_BCHW)), inplace=True)
        residual_BCHW = self.bn2(self.conv2(residual_BCHW))
        return F.relu(residual_BCHW + shortcut_BCHW, inplace=True)


class CifarResNet(nn.Module):
    """A CIFAR ResNet: float pixels_BCHW (3 channels, normalised, at least 4x4) -> logits_BC.

    Raises `UsageError` (from its config) for a depth that is not 6n + 2.
    """

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__()
        self.config = config
        blocks = (config.depth - 2) // 6
        width1, width2, width3 = config.stage_widths
        self.conv1 = nn.Conv2d(3, config.stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_width)
        self.layer1 = _stage(config.stem_width, width1, blocks, stride=1)
        self.layer2 = _stage(width1, width2, blocks, stride=2)
        self.layer3 = _stage(width2, width3, blocks, stride=2)
        self.fc = nn.Linear(width3, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = F.relu(self.bn1(self.conv1(pixels_BCHW)), inplace=True)
        maps_BCHW = self.layer3(self.layer2(self.layer1(maps_BCHW)))
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.fc(self.pooled_features(pixels_BCHW))
        return logits_BC


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width_in, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))
