"""Trunks of pose networks: torchvision's classifiers without pooling and classifier.

Drawn as torchvision draws them. Module names stay torchvision's, which are the published pose
checkpoints' too (conv1, bn1, layer1.0.conv1 .. layer2.0.downsample.0).

Shapes: B batch; C channels; H, W image.
"""

from collections import OrderedDict

from torch import nn
from torchvision import models

RESNET_DEPTHS = (18, 50, 101, 152)


def resnet_trunk(depth: int) -> tuple[nn.Sequential, int]:
    """pixels_BCHW -> maps (B, width, H/32, W/32), and that width; strides on the 3x3 convolutions.

    He et al. 2015, table 1 (https://arxiv.org/abs/1512.03385).
    """
    resnet = models.get_model(f"resnet{depth}", weights=None)
    layers = OrderedDict(resnet.named_children())  # in the order in which they run
    width: int = layers.pop("fc").in_features
    del layers["avgpool"]
    return nn.Sequential(layers), width


def mobilenet_trunk() -> tuple[nn.Sequential, int]:
    """pixels_BCHW -> maps (B, 320, H/32, W/32), and that 320.

    Sandler et al. 2018, table 2 (https://arxiv.org/abs/1801.04381), without its last convolution:
    that one widens to 1,280 for the classifier.
    """
    return models.get_model("mobilenet_v2", weights=None).features[:-1], 320
