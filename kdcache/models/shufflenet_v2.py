"""ShuffleNet V2 for small images: Ma et al. 2018 (https://arxiv.org/abs/1807.11164), size 1x.

As in the CRD benchmark (Tian et al. 2019, https://arxiv.org/abs/1910.10699): a 1x1 stem that keeps
the image's size where the paper's halves it twice, and as many blocks a stage as the paper repeats
behind the halving one. Modules are named as in the benchmark's checkpoints (conv1, bn1,
layer1.0.conv1 .. linear), so that those load as they are.

Shapes: B batch; C channels in pixels_BCHW and maps_BCHW, classes in logits_BC; D features; H, W
image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError

_STEM_WIDTH = 24
_STAGES = ((116, 3), (232, 7), (464, 3))  # width, blocks behind the first: Ma et al., table 5, 1x
_LAST_WIDTH = 1024


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2Config:
    """ShuffleNet V2 1x, the CRD benchmark's."""

    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class SplitUnit(nn.Module):
    """Half of the channels pass as they are, the other half is convolved (figure 3c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        kept_BCHW, own_BCHW = maps_BCHW.chunk(2, dim=1)
        own_BCHW = F.relu(self.bn1(self.conv1(own_BCHW)), inplace=True)
        own_BCHW = self.bn2(self.conv2(own_BCHW))
        own_BCHW = F.relu(self.bn3(self.conv3(own_BCHW)), inplace=True)
        return F.channel_shuffle(torch.cat([kept_BCHW, own_BCHW], 1), 2)


class HalvingUnit(nn.Module):
    """Halves the maps: both halves of its output are convolved from all its input (figure 3d)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(
            width_in, width_in, 3, stride=2, padding=1, groups=width_in, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv2 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        left_BCHW = self.bn1(self.conv1(maps_BCHW))
        left_BCHW = F.relu(self.bn2(self.conv2(left_BCHW)), inplace=True)
        right_BCHW = F.relu(self.bn3(self.conv3(maps_BCHW)), inplace=True)
        right_BCHW = self.bn4(self.conv4(right_BCHW))
        right_BCHW = F.relu(self.bn5(self.conv5(right_BCHW)), inplace=True)
        return F.channel_shuffle(torch.cat([left_BCHW, right_BCHW], 1), 2)


class ShuffleNetV2(nn.Module):
    """A ShuffleNet V2: float pixels_BCHW (3 channels, normalised, of any size) -> logits_BC."""

    def __init__(self, config: ShuffleNetV2Config) -> None:
        super().__init__()
        self.config = config
        (width1, blocks1), (width2, blocks2), (width3, blocks3) = _STAGES
        self.conv1 = nn.Conv2d(3, _STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_WIDTH)
        self.layer1 = _stage(_STEM_WIDTH, width1, blocks1)
        self.layer2 = _stage(width1, width2, blocks2)
        self.layer3 = _stage(width2, width3, blocks3)
        self.conv2 = nn.Conv2d(width3, _LAST_WIDTH, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_LAST_WIDTH)
        self.linear = nn.Linear(_LAST_WIDTH, config.num_classes)

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = F.relu(self.bn1(self.conv1(pixels_BCHW)), inplace=True)
        maps_BCHW = self.layer3(self.layer2(self.layer1(maps_BCHW)))
        maps_BCHW = F.relu(self.bn2(self.conv2(maps_BCHW)), inplace=True)
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.linear(self.pooled_features(pixels_BCHW))
        return logits_BC


def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(HalvingUnit(width_in, width), *(SplitUnit(width) for _ in range(blocks)))
