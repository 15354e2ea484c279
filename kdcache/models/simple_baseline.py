"""SimpleBaseline: Xiao et al. 2018, figure 1 and section 2 (https://arxiv.org/abs/1804.06208).

A ResNet, three transposed convolutions that each double the maps, a 1x1 convolution to one map a
joint. The head's modules are named as in the published checkpoints (deconv_layers.0 .. 7,
final_layer); theirs have the trunk's names bare, which `checkpoints.renaming` knows.

Shapes: B batch; C channels; J joints; H, W image.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.initialisation import draw_narrowly
from kdcache.models.trunks import RESNET_DEPTHS, resnet_trunk


@dataclass(frozen=True, kw_only=True)
class SimpleBaselineConfig:
    """The ResNet's depth; `width`: channels of each transposed convolution."""

    depth: int
    num_joints: int
    width: int = 256

    def __post_init__(self) -> None:
        if self.depth not in RESNET_DEPTHS:
            depths = ", ".join(map(str, RESNET_DEPTHS))
            raise UsageError(f"a SimpleBaseline's depth is one of {depths}, got {self.depth}")
        if self.width < 1:
            raise UsageError(f"a SimpleBaseline's width is at least 1, got {self.width}")
        if self.num_joints < 1:
            raise UsageError(f"a pose network needs at least 1 joint, got {self.num_joints}")


class SimpleBaseline(nn.Module):
    """Float pixels_BCHW (3 channels, normalised, H and W multiples of 32) -> heatmaps_BJHW.

    Heatmaps are (B, J, H/4, W/4), raw: no activation, no scale.
    """

    def __init__(self, config: SimpleBaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, width_in = resnet_trunk(config.depth)
        layers: list[nn.Module] = []
        for inputs in (width_in, config.width, config.width):
            layers += [
                nn.ConvTranspose2d(inputs, config.width, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(config.width),
                nn.ReLU(inplace=True),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(config.width, config.num_joints, 1)
        draw_narrowly(self.deconv_layers, self.final_layer)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        heatmaps_BJHW: Tensor = self.final_layer(self.deconv_layers(self.backbone(pixels_BCHW)))
        return heatmaps_BJHW
