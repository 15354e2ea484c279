"""Names of pose networks, and networks from them. Imports torch only when a network is built."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

POSE_SHORT_NAMES = {
    "sb18": "simplebaseline-resnet18",
    "sb50": "simplebaseline-resnet50",
    "sb101": "simplebaseline-resnet101",
    "sb152": "simplebaseline-resnet152",
    "lp18": "lightpose-resnet18",
    "mbpose": "lightpose-mobilenetv2",
    "hrnet32": "hrnet-w32",
    "hrnet48": "hrnet-w48",
}
POSE_NETWORKS = (*POSE_SHORT_NAMES, *POSE_SHORT_NAMES.values())


def build_pose_network(name: str, num_joints: int) -> "nn.Module":
    """The network of a long name: float pixels_BCHW -> heatmaps (B, J, H/4, W/4)."""
    family, _, rest = name.partition("-")
    if family == "hrnet":
        from kdcache.models.hrnet import HRNet, HRNetConfig

        return HRNet(HRNetConfig(width=int(rest.removeprefix("w")), num_joints=num_joints))
    if family == "lightpose":
        from kdcache.models.light_pose import LightPose, LightPoseConfig

        config = LightPoseConfig(
            trunk="mobilenetv2" if rest == "mobilenetv2" else "resnet18", num_joints=num_joints
        )
        return LightPose(config)
    from kdcache.models.simple_baseline import SimpleBaseline, SimpleBaselineConfig

    depth = int(rest.removeprefix("resnet"))
    return SimpleBaseline(SimpleBaselineConfig(depth=depth, num_joints=num_joints))
