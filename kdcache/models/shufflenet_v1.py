"""ShuffleNet for small images: Zhang et al. 2017 (https://arxiv.org/abs/1707.01083), 3 groups.

As in the CRD benchmark (Tian et al. 2019, https://arxiv.org/abs/1910.10699): a 1x1 stem that keeps
the image's size where the paper's halves it twice, and a ReLU behind the depthwise convolution,
where the paper has none. Modules are named as in the benchmark's checkpoints (conv1, bn1,
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
_GROUPS = 3
_STAGES = ((240, 4), (480, 8), (960, 4))  # width, blocks: Zhang et al., table 1, 3 groups


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV1Config:
    """ShuffleNet 1x with 3 groups, the CRD benchmark's."""

    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"a network needs at least 1 class, got {self.num_classes}")


class ShuffleUnit(nn.Module):
    """Zhang et al., figure 2: b, which adds its input; c, which halves the maps and appends it.

    Channels are dealt out between the grouped convolutions (figure 1), so that each group of the
    second sees something of every group of the first.
    """

    def __init__(self, width_in: int, width: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        own = width - width_in if halves else width  # the input brings the other channels
        inner = own // 4
        # The stem's maps are too thin to be grouped (section 3.2).
        self.groups = 1 if width_in == _STEM_WIDTH else _GROUPS
        stride = 2 if halves else 1
        self.conv1 = nn.Conv2d(width_in, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, own, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        own_BCHW = F.relu(self.bn1(self.conv1(maps_BCHW)), inplace=True)
        own_BCHW = F.channel_shuffle(own_BCHW, self.groups)
        own_BCHW = F.relu(self.bn2(self.conv2(own_BCHW)), inplace=True)
        own_BCHW = self.bn3(self.conv3(own_BCHW))
        if not self.halves:
            return F.relu(own_BCHW + maps_BCHW, inplace=True)
        halved_BCHW = F.avg_pool2d(maps_BCHW, 3, stride=2, padding=1)
        return F.relu(torch.cat([own_BCHW, halved_BCHW], 1), inplace=True)


class ShuffleNetV1(nn.Module):
    """A ShuffleNet: float pixels_BCHW (3 channels, normalised, of any size) -> logits_BC."""

    def __init__(self, config: ShuffleNetV1Config) -> None:
        super().__init__()
        self.config = config
        (width1, blocks1), (width2, blocks2), (width3, blocks3) = _STAGES
        self.conv1 = nn.Conv2d(3, _STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_WIDTH)
        self.layer1 = _stage(_STEM_WIDTH, width1, blocks1)
        self.layer2 = _stage(width1, width2, blocks2)
        self.layer3 = _stage(width2, width3, blocks3)
        self.linear = nn.Linear(width3, config.num_classes)

    def pooled_features(self, pixels_BCHW: Tensor) -> Tensor:
        """What the classifier sees: features_BD, the last maps averaged over all places."""
        maps_BCHW = F.relu(self.bn1(self.conv1(pixels_BCHW)), inplace=True)
        maps_BCHW = self.layer3(self.layer2(self.layer1(maps_BCHW)))
        return F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logits_BC: Tensor = self.linear(self.pooled_features(pixels_BCHW))
        return logits_BC


def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
    rest = (ShuffleUnit(width, width, halves=False) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleUnit(width_in, width, halves=True), *rest)
