"""Parameters and multiply-adds of every classifier by name, three times.

    counted     on the modules: parameters, and one multiply-add for each weight each output number
                of a convolution or linear layer takes (the forward pass runs on no data at all)
    computed    here, layer by layer, from the papers' tables and what the CRD benchmark changes in
                them; nothing of the package is used
    published   where someone published a number; each with its source

BatchNorms have parameters and no multiply-adds; biases have no multiply-adds.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdcache.models import CLASSIFIER_NAMES, build_network, long_name


class Tally:
    """A network written down as its layers, for images of 32 pixels."""

    def __init__(self) -> None:
        self.parameters = 0
        self.multiply_adds = 0
        self.size = 32

    def conv(
        self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, stride: int = 1
    ) -> None:
        """With its BatchNorm; all pad so that only the stride makes maps smaller."""
        self.bare(inputs, outputs, kernel, groups=groups, stride=stride)
        self.norm(outputs)

    def bare(
        self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, stride: int = 1
    ) -> None:
        self.size //= stride
        weights = kernel * kernel * (inputs // groups) * outputs
        self.parameters += weights
        self.multiply_adds += weights * self.size**2

    def beside(self, inputs: int, outputs: int) -> None:
        """A 1x1 convolution of a shortcut, whose size the main branch has already reached."""
        self.bare(inputs, outputs, 1)

    def norm(self, width: int) -> None:
        self.parameters += 2 * width

    def linear(self, inputs: int, outputs: int) -> None:
        self.parameters += inputs * outputs + outputs
        self.multiply_adds += inputs * outputs


def resnet(tally: Tally, classes: int, depth: int, times: int = 1) -> None:
    """He et al. 2015, section 4.2, with 1x1 shortcuts; x4: the stem is 32 wide, not 64."""
    width = 16 if times == 1 else 32
    tally.conv(3, width, 3)
    for stage in range(3):
        wide = 16 * times * 2**stage
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            tally.conv(width, wide, 3, stride=stride)
            tally.conv(wide, wide, 3)
            if width != wide:
                tally.beside(width, wide)
                tally.norm(wide)
            width = wide
    tally.linear(width, classes)


def wide_resnet(tally: Tally, classes: int, depth: int, times: int) -> None:
    """Zagoruyko and Komodakis 2016, table 1: BatchNorms come first, so one is left at the end."""
    width = 16
    tally.bare(3, width, 3)
    for stage in range(3):
        wide = 16 * times * 2**stage
        for block in range((depth - 4) // 6):
            tally.norm(width)
            tally.bare(width, wide, 3, stride=2 if stage and not block else 1)
            tally.norm(wide)
            tally.bare(wide, wide, 3)
            if width != wide:
                tally.beside(width, wide)
            width = wide
    tally.norm(width)
    tally.linear(width, classes)


def vgg(tally: Tally, classes: int, per_stage: int) -> None:
    """Simonyan and Zisserman 2014, table 1 B (or half of it), all convolutions with a bias."""
    width = 3
    for stage, wide in enumerate((64, 128, 256, 512, 512)):
        tally.size = (32, 16, 8, 4, 4)[stage]
        for _ in range(per_stage):
            tally.conv(width, wide, 3)
            tally.parameters += wide
            width = wide
    tally.linear(width, classes)


def mobilenet_v2(tally: Tally, classes: int) -> None:
    """Sandler et al. 2018, table 2, at half width; the stride of its second stage is 1."""
    tally.conv(3, 16, 3, stride=2)
    width = 16
    for expansion, wide, blocks, first in (
        *((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2)),
        *((6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)),
    ):
        for block in range(blocks):
            inner = width * expansion
            tally.conv(width, inner, 1)
            tally.conv(inner, inner, 3, groups=inner, stride=1 if block else first)
            tally.conv(inner, wide, 1)
            width = wide
    tally.conv(width, 1280, 1)
    tally.linear(1280, classes)


def shufflenet_v1(tally: Tally, classes: int) -> None:
    """Zhang et al. 2017, table 1, 3 groups, with a 1x1 stem and without its pooling."""
    tally.conv(3, 24, 1)
    width = 24
    for wide, blocks in ((240, 4), (480, 8), (960, 4)):
        for block in range(blocks):
            own = wide if block else wide - width
            inner = own // 4
            tally.conv(width, inner, 1, groups=1 if width == 24 else 3)
            tally.conv(inner, inner, 3, groups=inner, stride=1 if block else 2)
            tally.conv(inner, own, 1, groups=3)
            width = wide
    tally.linear(width, classes)


def shufflenet_v2(tally: Tally, classes: int) -> None:
    """Ma et al. 2018, table 5, 1x, with a 1x1 stem and without its pooling."""
    tally.conv(3, 24, 1)
    width = 24
    for wide, repeated in ((116, 3), (232, 7), (464, 3)):
        half = wide // 2
        tally.conv(width, half, 1)  # the right branch, figure 3d
        tally.conv(half, half, 3, groups=half, stride=2)
        tally.conv(half, half, 1)
        tally.conv(width, width, 3, groups=width)  # the left one: at the size reached by now
        tally.conv(width, half, 1)
        for _ in range(repeated):
            tally.conv(half, half, 1)
            tally.conv(half, half, 3, groups=half)
            tally.conv(half, half, 1)
        width = wide
    tally.conv(width, 1024, 1)
    tally.linear(1024, classes)


def resnet50(tally: Tally, classes: int) -> None:
    """He et al. 2015, table 1, with a 3x3 stem and without its pooling; strides on the 3x3."""
    tally.conv(3, 64, 3)
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(blocks):
            tally.conv(width, inner, 1)
            tally.conv(inner, inner, 3, stride=2 if stage and not block else 1)
            tally.conv(inner, 4 * inner, 1)
            if not block:
                tally.beside(width, 4 * inner)
                tally.norm(4 * inner)
            width = 4 * inner
    tally.linear(width, classes)


FAMILIES: dict[str, Callable[[Tally, int], None]] = {
    **{f"resnet{d}": lambda t, c, d=d: resnet(t, c, d) for d in (8, 14, 20, 32, 44, 56, 110)},  # type: ignore[misc]
    "resnet8x4": lambda t, c: resnet(t, c, 8, 4),
    "resnet32x4": lambda t, c: resnet(t, c, 32, 4),
    "wrn-16-1": lambda t, c: wide_resnet(t, c, 16, 1),
    "wrn-16-2": lambda t, c: wide_resnet(t, c, 16, 2),
    "wrn-40-1": lambda t, c: wide_resnet(t, c, 40, 1),
    "wrn-40-2": lambda t, c: wide_resnet(t, c, 40, 2),
    "wrn-28-10": lambda t, c: wide_resnet(t, c, 28, 10),
    "vgg8": lambda t, c: vgg(t, c, 1),
    "vgg13": lambda t, c: vgg(t, c, 2),
    "mobilenetv2": mobilenet_v2,
    "shufflenetv1": shufflenet_v1,
    "shufflenetv2": shufflenet_v2,
    "resnet50": resnet50,
}


def computed(name: str, classes: int = 100) -> tuple[int, int]:
    tally = Tally()
    FAMILIES[name](tally, classes)
    return tally.parameters, tally.multiply_adds


def counted(name: str, classes: int = 100) -> tuple[int, int]:
    with torch.device("meta"):
        network = build_network(name, classes).eval()
        pixels_BCHW = torch.empty(1, 3, 32, 32)
    multiply_adds = 0

    def add(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal multiply_adds
        assert isinstance(layer.weight, Tensor)
        multiply_adds += output.numel() * layer.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    network(pixels_BCHW)
    return sum(parameter.numel() for parameter in network.parameters()), multiply_adds


LONG_NAMES = list(dict.fromkeys(long_name(name) for name in CLASSIFIER_NAMES))


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("name", LONG_NAMES)
def test_counted_is_computed(name: str, classes: int) -> None:
    assert counted(name, classes) == computed(name, classes)


# Computed, and the same on the networks: pinned, so that neither can drift with the other. These
# parameter counts are also the ones commonly given for the CRD benchmark's networks.
@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("resnet20", 278_324, 40_818_944),
        ("resnet8x4", 1_233_540, 177_071_104),
        ("resnet32x4", 7_433_860, 1_083_040_768),
        ("wrn-40-2", 2_255_156, 327_610_880),
        ("vgg8", 3_965_028, 96_192_512),
        ("vgg13", 9_462_180, 284_936_192),
        ("mobilenetv2", 812_836, 6_523_648),
        ("shufflenetv1", 949_258, 38_691_456),
        ("shufflenetv2", 1_355_528, 44_504_448),
        ("resnet50", 23_705_252, 1_298_014_208),
    ],
)
def test_pinned(name: str, parameters: int, multiply_adds: int) -> None:
    assert counted(name) == (parameters, multiply_adds)


# Published: the README of github.com/chenyaofo/pytorch-cifar-models, CIFAR-10 and CIFAR-100.
@pytest.mark.parametrize(
    ("name", "classes", "parameters_M", "multiply_adds_M"),
    [
        ("resnet20", 10, 0.27, 40.81),
        ("resnet32", 10, 0.47, 69.12),
        ("resnet44", 10, 0.66, 97.44),
        ("resnet56", 10, 0.86, 125.75),
        ("resnet20", 100, 0.28, 40.82),
        ("resnet32", 100, 0.47, 69.13),
        ("resnet44", 100, 0.67, 97.44),
        ("resnet56", 100, 0.86, 125.75),
    ],
)
def test_published_cifar_resnets(
    name: str, classes: int, parameters_M: float, multiply_adds_M: float
) -> None:
    parameters, multiply_adds = counted(name, classes)
    assert round(parameters / 1e6, 2) == parameters_M
    assert round(multiply_adds / 1e6, 2) == multiply_adds_M


# Published: github.com/da2so/DA2Lite, model_zoo/README.md, ResNet50 for CIFAR-10 and CIFAR-100.
@pytest.mark.parametrize(("classes", "parameters_M"), [(10, 23.52), (100, 23.71)])
def test_published_resnet50(classes: int, parameters_M: float) -> None:
    parameters, multiply_adds = counted("resnet50", classes)
    assert round(parameters / 1e6, 2) == parameters_M
    assert round(multiply_adds / 1e9, 2) == 1.30


# Published, for networks that differ from ours in a known place: the same README of
# chenyaofo/pytorch-cifar-models, vgg13_bn and shufflenetv2_x1_0. The difference is computed.
@pytest.mark.parametrize(
    ("classes", "parameters_M", "multiply_adds_M"), [(10, 9.94, 228.79), (100, 9.99, 228.84)]
)
def test_published_vgg13_with_all_its_linear_layers(
    classes: int, parameters_M: float, multiply_adds_M: float
) -> None:
    parameters, multiply_adds = counted("vgg13", classes)
    hidden = 2 * 512 * 512  # two more linear layers, and the last stage on maps of 2x2 for 4x4
    parameters += hidden + 2 * 512
    multiply_adds += hidden - 2 * 9 * 512 * 512 * (4 * 4 - 2 * 2)
    assert round(parameters / 1e6, 2) == parameters_M
    assert round(multiply_adds / 1e6, 2) == multiply_adds_M


@pytest.mark.parametrize(
    ("classes", "parameters_M", "multiply_adds_M"), [(10, 1.26, 45.00), (100, 1.36, 45.09)]
)
def test_published_shufflenet_v2_with_a_3x3_stem(
    classes: int, parameters_M: float, multiply_adds_M: float
) -> None:
    parameters, multiply_adds = counted("shufflenetv2", classes)
    more = 3 * 24 * (3 * 3 - 1 * 1)
    assert round((parameters + more) / 1e6, 2) == parameters_M
    assert round((multiply_adds + more * 32 * 32) / 1e6, 2) == multiply_adds_M


# Published, Zagoruyko and Komodakis 2016, tables 4 and 5, CIFAR-10, as test_networks.py has them
# too; and Zhang et al. 2017 and Ma et al. 2018 give multiply-adds at 224 pixels only, where the
# CRD benchmark's stem would not be theirs. For VGG-8, MobileNetV2 and ShuffleNetV1 as they are
# here no published multiply-adds are known: theirs are computed.
@pytest.mark.parametrize(("name", "parameters_M"), [("wrn-16-1", 0.2), ("wrn-28-10", 36.5)])
def test_published_wide_resnets(name: str, parameters_M: float) -> None:
    assert round(counted(name, 10)[0] / 1e6, 1) == parameters_M
