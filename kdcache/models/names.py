"""Names of networks, and networks from names. Imports torch only when a network is built."""

import re
from typing import TYPE_CHECKING

from kdcache.errors import UsageError, unknown_name
from kdcache.factories import call_factory
from kdcache.models.pose_names import POSE_NETWORKS, POSE_SHORT_NAMES, build_pose_network

if TYPE_CHECKING:
    from torch import nn

# A fixed list, not "any 6n + 2": resnet50 fits that and is another family, resnet152 ImageNet's.
_SHORT_CLASSIFIERS = {
    "r8": "resnet8",
    "r14": "resnet14",
    "r20": "resnet20",
    "r32": "resnet32",
    "r44": "resnet44",
    "r56": "resnet56",
    "r110": "resnet110",
    "r8x4": "resnet8x4",
    "r32x4": "resnet32x4",
    "wrn16": "wrn-16-2",
    "wrn40": "wrn-40-2",
}
SHORT_NAMES = {**_SHORT_CLASSIFIERS, **POSE_SHORT_NAMES}
# Short enough as they are.
NAMES_WITHOUT_SHORT_FORM = (
    *("vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"),
    *("wrn-16-1", "wrn-40-1", "wrn-28-10"),
)
CLASSIFIER_NAMES = (
    *_SHORT_CLASSIFIERS,
    *_SHORT_CLASSIFIERS.values(),
    *NAMES_WITHOUT_SHORT_FORM,
)
KNOWN_NAMES = (*CLASSIFIER_NAMES, *POSE_NETWORKS)
_LONG_TO_SHORT = {long: short for short, long in SHORT_NAMES.items()}
_WIDE_RESNET = re.compile(r"wrn-([1-9]\d{0,3})-([1-9]\d{0,2})")
_MODULE_AND_FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_HINT = (
    "Also wrn-DEPTH-WIDTH of any depth 6n + 4, torchvision:NAME for torchvision's classifiers, and "
    "package.module:factory for your own function of num_classes."
)


def long_name(name: str) -> str:
    """The name that files and manifests use: `r20` -> `resnet20`; a long name stays itself.

    `torchvision:NAME` and `module:factory` are checked for their form only; `build_network` looks
    inside. Raises `UsageError` for a name of no known network.
    """
    name = SHORT_NAMES.get(name, name)
    if ":" in name:
        if not _MODULE_AND_FACTORY.fullmatch(name):
            raise UsageError(
                f"cannot read the network name {name!r}: expected torchvision:NAME or "
                "package.module:factory, for example my_networks:build"
            )
        return name
    wide = _WIDE_RESNET.fullmatch(name)
    if wide and (int(wide[1]) < 10 or (int(wide[1]) - 4) % 6):
        near = max(10, 4 + 6 * round((int(wide[1]) - 4) / 6))
        raise UsageError(
            f"no network {name!r}: a Wide ResNet's depth is 6n + 4 (10, 16, 22, 28, 34, 40, ..), "
            f"got {wide[1]}. Did you mean wrn-{near}-{wide[2]}?"
        )
    if not wide and name not in KNOWN_NAMES:
        raise unknown_name("network", name, KNOWN_NAMES, _HINT)
    return name


def short_name(name: str) -> str:
    """The name that tables use: `resnet20` -> `r20`. A name without a short form stays itself.

    Never fails, so that a store with a network this version does not know can still be listed.
    """
    return _LONG_TO_SHORT.get(name, name)


def build_network(name: str, num_classes: int, seed: int | None = None) -> "nn.Module":
    """A freshly initialised network by short or long name: float pixels_BCHW -> logits_BC.

    A pose network gives heatmaps (B, J, H/4, W/4), and `num_classes` is its number of joints J.

    With `seed` the network is made on the CPU, its initial weights are a function of the seed
    alone, and the caller's random state is left as it was. Without, it is drawn from torch's global
    state and made on the current default device. (A `module:factory` that draws from numpy or
    Python is not covered.) While a factory is imported and called, the current folder comes first
    in `sys.path`.

    Raises `UsageError`: unknown name, fewer than 1 class, a seed outside [0, 2**63), a factory that
    cannot be imported, fails, or returns something else than a module; timm missing for an HRNet.
    """
    name = long_name(name)
    if num_classes < 1:
        raise UsageError(f"a network needs at least 1 class, got {num_classes}")
    if seed is None:
        return _build(name, num_classes)
    if not 0 <= seed < 2**63:
        raise UsageError(f"a seed is an integer from 0 to 2**63 - 1, got {seed}")
    import torch

    # Not torch.manual_seed: it reseeds the GPUs too, which are not forked here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return _build(name, num_classes)


def _build(name: str, num_classes: int) -> "nn.Module":
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        return _from_torchvision(rest, num_classes)
    if source == "timm":
        raise UsageError(
            f"{name}: timm networks cannot be named directly yet. Write a function that takes "
            f"num_classes and returns timm.create_model({rest!r}, num_classes=num_classes), "
            "and give it as module:function."
        )
    if source:
        return _from_factory(name, num_classes)
    if name in POSE_NETWORKS:
        return build_pose_network(name, num_classes)
    if wide := _WIDE_RESNET.fullmatch(name):
        from kdcache.models.wide_resnet import WideResNet, WideResNetConfig

        depth, width = int(wide[1]), int(wide[2])
        return WideResNet(WideResNetConfig(depth=depth, width=width, num_classes=num_classes))
    if name.startswith("vgg"):
        from kdcache.models.vgg import VGG, VGGConfig

        return VGG(VGGConfig(depth=int(name.removeprefix("vgg")), num_classes=num_classes))
    if name == "mobilenetv2":
        from kdcache.models.mobilenet_v2 import MobileNetV2, MobileNetV2Config

        return MobileNetV2(MobileNetV2Config(num_classes=num_classes))
    if name == "shufflenetv1":
        from kdcache.models.shufflenet_v1 import ShuffleNetV1, ShuffleNetV1Config

        return ShuffleNetV1(ShuffleNetV1Config(num_classes=num_classes))
    if name == "shufflenetv2":
        from kdcache.models.shufflenet_v2 import ShuffleNetV2, ShuffleNetV2Config

        return ShuffleNetV2(ShuffleNetV2Config(num_classes=num_classes))
    if name == "resnet50":
        from kdcache.models.bottleneck_resnet import BottleneckResNet, BottleneckResNetConfig

        return BottleneckResNet(BottleneckResNetConfig(num_classes=num_classes))
    return _cifar_resnet(name, num_classes)


def _cifar_resnet(name: str, num_classes: int) -> "nn.Module":
    from kdcache.models.cifar_resnet import CifarResNet, CifarResNetConfig

    depth = int(name.removeprefix("resnet").removesuffix("x4"))
    if not name.endswith("x4"):
        return CifarResNet(CifarResNetConfig(depth=depth, num_classes=num_classes))
    config = CifarResNetConfig(
        depth=depth, num_classes=num_classes, stem_width=32, stage_widths=(64, 128, 256)
    )
    return CifarResNet(config)


def _from_torchvision(name: str, num_classes: int) -> "nn.Module":
    from torch import nn
    from torchvision import models

    # Classifiers only: detection and segmentation networks would download a backbone's weights.
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    # These two warn unless told; True is what they do today.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **options)
    assert isinstance(network, nn.Module)
    return network


def _from_factory(path: str, num_classes: int) -> "nn.Module":
    from torch import nn

    network = call_factory("network", path, num_classes)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"network {path!r}: {path.partition(':')[2]}({num_classes}) returned {network!r:.100}, "
            "expected a torch.nn.Module"
        )
    return network
