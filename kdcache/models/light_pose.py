"""Light pose networks, for students: a small trunk and a head without a dense large convolution.

Each of SimpleBaseline's transposed convolutions (Xiao et al. 2018) is cut in two, as LPN does
(Zhang et al. 2019, https://arxiv.org/abs/1911.10346): a 1x1 convolution that mixes channels, and a
transposed one of each channel by itself. At 256 x 192 and 17 joints, in millions:

                            parameters      multiply-adds
                            all   head        all    head
    lightpose-mobilenetv2   1.90  0.08        300      26
    lightpose-resnet18     11.28  0.11      1,804      28
    simplebaseline-resnet18
                           15.38  4.20      2,897   1,121

Shapes: B batch; C channels; J joints; H, W image.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.initialisation import draw_narrowly
from kdcache.models.trunks import mobilenet_trunk, resnet_trunk


@dataclass(frozen=True, kw_only=True)
class LightPoseConfig:
    """`width`: channels of the head."""

    trunk: Literal["mobilenetv2", "resnet18"]
    num_joints: int
    width: int = 128

    def __post_init__(self) -> None:
        if self.trunk not in ("mobilenetv2", "resnet18"):
            raise UsageError(
                f"a light pose network's trunk is mobilenetv2 or resnet18, got {self.trunk!r}"
            )
        if self.width < 1:
            raise UsageError(f"a light pose network's width is at least 1, got {self.width}")
        if self.num_joints < 1:
            raise UsageError(f"a pose network needs at least 1 joint, got {self.num_joints}")


class LightPose(nn.Module):
    """Float pixels_BCHW (3 channels, normalised, H and W multiples of 32) -> heatmaps_BJHW.

    Heatmaps are (B, J, H/4, W/4), raw: no activation, no scale.
    """

    def __init__(self, config: LightPoseConfig) -> None:
        super().__init__()
        self.config = config
        trunk = mobilenet_trunk() if config.trunk == "mobilenetv2" else resnet_trunk(18)
        self.backbone, width_in = trunk
        inputs = (width_in, config.width, config.width)
        self.head = nn.Sequential(*(_doubled(width, config.width) for width in inputs))
        self.final_layer = nn.Conv2d(config.width, config.num_joints, 1)
        draw_narrowly(self.head, self.final_layer)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        heatmaps_BJHW: Tensor = self.final_layer(self.head(self.backbone(pixels_BCHW)))
        return heatmaps_BJHW


def _doubled(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
