"""HRNet for poses: Sun et al. 2019, section 3 (https://arxiv.org/abs/1902.09212).

timm's HRNet up to the fourth stage, whose branch of the highest resolution a 1x1 convolution turns
into one map a joint. timm keeps the published names (conv1, stage2.0.branches.0.0.conv1 ..); the
published pose checkpoints have them bare, which `checkpoints.renaming` knows.

Shapes: B batch; C channels; J joints; H, W image.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models.initialisation import draw_narrowly

WIDTHS = (32, 48)


@dataclass(frozen=True, kw_only=True)
class HRNetConfig:
    """`width`: channels of the branch of the highest resolution."""

    width: int
    num_joints: int

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            widths = " or ".join(map(str, WIDTHS))
            raise UsageError(f"an HRNet's width is {widths}, got {self.width}")
        if self.num_joints < 1:
            raise UsageError(f"a pose network needs at least 1 joint, got {self.num_joints}")


class HRNet(nn.Module):
    """Float pixels_BCHW (3 channels, normalised, H and W multiples of 32) -> heatmaps_BJHW.

    Heatmaps are (B, J, H/4, W/4), raw: no activation, no scale. Raises UsageError where timm is
    not installed.
    """

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            if error.name != "timm":
                raise
            raise UsageError(
                f"hrnet-w{config.width} needs timm, which is not installed: "
                "pip install 'kdcache[timm]'"
            ) from None
        self.config = config
        # The branches as they leave stage 4, without the wider ones of the classifier's head.
        backbone: Any = timm.create_model(
            f"hrnet_w{config.width}",
            pretrained=False,
            features_only=True,
            feature_location="",
            out_indices=(1,),  # stride 4; 0 is the stem
        )
        # Only the first branch is used: what leads to the others there would never learn.
        last = backbone.stage4[-1]
        last.fuse_layers = last.fuse_layers[:1]
        self.backbone = backbone
        self.final_layer = nn.Conv2d(config.width, config.num_joints, 1)
        draw_narrowly(self.final_layer)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        (maps_BCHW,) = self.backbone(pixels_BCHW)
        heatmaps_BJHW: Tensor = self.final_layer(maps_BCHW)
        return heatmaps_BJHW
