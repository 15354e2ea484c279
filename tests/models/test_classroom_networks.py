"""VGG, MobileNetV2, ShuffleNets and ResNet-50 compute what the published code computes.

Each is computed a second time from its weights alone, by key name, in the order in which the CRD
benchmark's code (https://github.com/HobbitLong/RepDistiller, models/) goes through them. Since the
names are the published checkpoints' too, that also says that these mean the same here.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models import build_network
from kdcache.models.bottleneck_resnet import BottleneckResNetConfig
from kdcache.models.mobilenet_v2 import MobileNetV2Config
from kdcache.models.shufflenet_v1 import ShuffleNetV1Config
from kdcache.models.shufflenet_v2 import ShuffleNetV2Config
from kdcache.models.vgg import VGGConfig

CLASSROOM = ["vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"]
FEATURES = dict(zip(CLASSROOM, [512, 512, 1280, 960, 1024, 2048], strict=True))
Weights = Mapping[str, Tensor]


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def with_statistics(name: str, classes: int = 7) -> nn.Module:
    """In eval mode, with BatchNorms as no two are: fresh ones would hide which is which."""
    network = build_network(name, classes, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
            module.bias.data.normal_(std=0.1, generator=generator)
            module.momentum = 1.0
    with torch.no_grad():
        network(images(16))
    return network.eval()


class Plain:
    """Layers by key name."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, x: Tensor, key: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.weights[f"{key}.weight"]
        bias = self.weights.get(f"{key}.bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)

    def norm(self, x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            self.weights[f"{key}.{name}"].view(-1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def both(self, x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        return self.norm(self.conv(x, conv, stride, groups), norm)

    def linear(self, x: Tensor, key: str) -> Tensor:
        return x.mean((2, 3)) @ self.weights[f"{key}.weight"].T + self.weights[f"{key}.bias"]


def dealt(x: Tensor, groups: int) -> Tensor:
    """Channel i x groups + g of the result is channel i of group g."""
    channels = x.shape[1]
    each = channels // groups
    return x[:, [g * each + i for i in range(each) for g in range(groups)]]


def plain_vgg(net: Plain, x: Tensor, per_block: int) -> Tensor:
    for block in range(5):
        for number in range(per_block):
            x = F.relu(net.both(x, f"block{block}.{3 * number}", f"block{block}.{3 * number + 1}"))
        if block < 3:
            x = F.max_pool2d(x, 2)
    return net.linear(x, "classifier")


def plain_mobilenet(net: Plain, x: Tensor) -> Tensor:
    x = F.relu(net.both(x, "conv1.0", "conv1.1", stride=2))
    strides = (1, 1, 2, 2, 1, 2, 1)
    for stage, (count, stride) in enumerate(zip((1, 2, 3, 4, 3, 3, 1), strides, strict=True)):
        for block in range(count):
            key = f"blocks.{stage}.{block}.conv"
            step = stride if block == 0 else 1
            y = F.relu(net.both(x, f"{key}.0", f"{key}.1"))
            y = F.relu(net.both(y, f"{key}.3", f"{key}.4", step, groups=y.shape[1]))
            y = net.both(y, f"{key}.6", f"{key}.7")
            x = x + y if step == 1 and x.shape[1] == y.shape[1] else y
    return net.linear(F.relu(net.both(x, "conv2.0", "conv2.1")), "classifier.0")


def plain_shuffle_v1(net: Plain, x: Tensor) -> Tensor:
    x = F.relu(net.both(x, "conv1", "bn1"))
    for layer, count in ((1, 4), (2, 8), (3, 4)):
        for block in range(count):
            key = f"layer{layer}.{block}"
            groups = 1 if x.shape[1] == 24 else 3
            y = F.relu(net.both(x, f"{key}.conv1", f"{key}.bn1", groups=groups))
            y = dealt(y, groups)
            stride = 2 if block == 0 else 1
            y = F.relu(net.both(y, f"{key}.conv2", f"{key}.bn2", stride, groups=y.shape[1]))
            y = net.both(y, f"{key}.conv3", f"{key}.bn3", groups=3)
            x = F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1) if stride == 2 else y + x)
    return net.linear(x, "linear")


def plain_shuffle_v2(net: Plain, x: Tensor) -> Tensor:
    x = F.relu(net.both(x, "conv1", "bn1"))
    for layer, count in ((1, 4), (2, 8), (3, 4)):
        for block in range(count):
            key = f"layer{layer}.{block}"
            half = x.shape[1] // 2
            if block == 0:
                left = net.both(x, f"{key}.conv1", f"{key}.bn1", 2, groups=x.shape[1])
                left = F.relu(net.both(left, f"{key}.conv2", f"{key}.bn2"))
                y = F.relu(net.both(x, f"{key}.conv3", f"{key}.bn3"))
                y = net.both(y, f"{key}.conv4", f"{key}.bn4", 2, groups=y.shape[1])
                y = F.relu(net.both(y, f"{key}.conv5", f"{key}.bn5"))
            else:
                left = x[:, :half]
                y = F.relu(net.both(x[:, half:], f"{key}.conv1", f"{key}.bn1"))
                y = net.both(y, f"{key}.conv2", f"{key}.bn2", groups=half)
                y = F.relu(net.both(y, f"{key}.conv3", f"{key}.bn3"))
            x = dealt(torch.cat([left, y], 1), 2)
    return net.linear(F.relu(net.both(x, "conv2", "bn2")), "linear")


def plain_resnet50(net: Plain, x: Tensor) -> Tensor:
    x = F.relu(net.both(x, "conv1", "bn1"))
    for layer, count in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(count):
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = F.relu(net.both(x, f"{key}.conv1", f"{key}.bn1"))
            y = F.relu(net.both(y, f"{key}.conv2", f"{key}.bn2", stride))
            y = net.both(y, f"{key}.conv3", f"{key}.bn3")
            if block == 0:
                x = net.both(x, f"{key}.shortcut.0", f"{key}.shortcut.1", stride)
            x = F.relu(x + y)
    return net.linear(x, "linear")


PLAIN: dict[str, Callable[[Plain, Tensor], Tensor]] = {
    "vgg8": lambda net, x: plain_vgg(net, x, 1),
    "vgg13": lambda net, x: plain_vgg(net, x, 2),
    "mobilenetv2": plain_mobilenet,
    "shufflenetv1": plain_shuffle_v1,
    "shufflenetv2": plain_shuffle_v2,
    "resnet50": plain_resnet50,
}


@pytest.mark.parametrize("name", CLASSROOM)
def test_they_compute_what_the_published_code_does(name: str) -> None:
    network = with_statistics(name).double()
    weights = network.state_dict()
    with torch.no_grad():
        expected_BC = PLAIN[name](Plain(weights), images().double())
        logits_BC = network(images().double())
    assert logits_BC.std(0).min() > 0  # not a network that the statistics have put to sleep
    torch.testing.assert_close(logits_BC, expected_BC, rtol=1e-9, atol=1e-12)


def test_vgg_pools_images_of_64_once_more() -> None:
    network = with_statistics("vgg8")
    seen: list[Tensor] = []
    last = network.get_submodule("block4")
    last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for size in (32, 64):
            network(images(2, size))
    assert [tuple(maps.shape[2:]) for maps in seen] == [(4, 4), (4, 4)]


@pytest.mark.parametrize("name", CLASSROOM)
@pytest.mark.parametrize("size", [8, 32])
def test_digits_and_cifar_in_both_memory_formats(name: str, size: int) -> None:
    network = with_statistics(name, 10)
    with torch.no_grad():
        logits_BC: Tensor = network(images(4, size))
        channels_last_BC: Tensor = network.to(memory_format=torch.channels_last)(
            images(4, size).to(memory_format=torch.channels_last)
        )
    assert logits_BC.shape == (4, 10)
    assert logits_BC.dtype == torch.float32
    torch.testing.assert_close(logits_BC, channels_last_BC, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CLASSROOM)
def test_every_parameter_learns(name: str) -> None:
    network = build_network(name, 5, seed=0)
    network(images(4)).logsumexp(1).sum().backward()
    # VGG's convolutions have a bias, which BatchNorm takes out again: no gradient but for rounding.
    without_effect = {f"{n}.bias" for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    learning = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning | without_effect >= {n for n, _ in network.named_parameters()}


@pytest.mark.parametrize("name", CLASSROOM)
def test_under_autocast(name: str) -> None:
    network = build_network(name, 5, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BC = network(images(4))
    logits_BC.float().logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", CLASSROOM)
def test_pooled_features_are_the_classifiers_input(name: str) -> None:
    network = with_statistics(name)
    with torch.no_grad():
        features_BD = network.pooled_features(images(2))  # type: ignore[operator]
        classifier = list(network.children())[-1]
        assert features_BD.shape == (2, FEATURES[name])
        assert torch.equal(classifier(features_BD), network(images(2)))


# He et al. 2015 (https://arxiv.org/abs/1502.01852), equation 14, for fan_out; the published VGG and
# MobileNetV2 draw their linear layers with 0.01, ResNet-50 and the ShuffleNets leave them to torch;
# the ShuffleNets leave all to torch: U(-b, b) with b = 1 / sqrt(fan_in), of deviation b / sqrt(3).
@pytest.mark.parametrize(
    ("name", "convolution", "linear"),
    [
        ("vgg13", "fan_out", 0.01),
        ("mobilenetv2", "fan_out", 0.01),
        ("shufflenetv1", "torch", None),
        ("shufflenetv2", "torch", None),
        ("resnet50", "fan_out", None),
    ],
)
def test_first_weights_are_drawn_as_published(
    name: str, convolution: str, linear: float | None
) -> None:
    for module in build_network(name, 100, seed=0).modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().double()
            out, fan_in = weight.shape[0], weight[0].numel()
            area = module.kernel_size[0] * module.kernel_size[1]
            expected = (
                (2 / (out * area)) ** 0.5 if convolution == "fan_out" else (3 * fan_in) ** -0.5
            )
            if convolution == "fan_out" and module.bias is not None:
                assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            weight = module.weight.detach().double()
            expected = linear or (3 * weight.shape[1]) ** -0.5
            assert module.bias.any() == (linear is None)
        else:
            continue
        # Five standard errors of a deviation estimated from so many normal numbers.
        assert abs(weight.std().item() / expected - 1) < 5 / (2 * weight.numel()) ** 0.5
        assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5


@pytest.mark.parametrize(
    "config",
    [
        lambda: VGGConfig(depth=8, num_classes=0),
        lambda: MobileNetV2Config(num_classes=0),
        lambda: ShuffleNetV1Config(num_classes=0),
        lambda: ShuffleNetV2Config(num_classes=0),
        lambda: BottleneckResNetConfig(num_classes=0),
    ],
)
def test_configs_refuse_no_classes(config: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="at least 1 class, got 0"):
        config()


def test_configs_refuse_impossible_networks() -> None:
    with pytest.raises(UsageError, match="depth is 8 or 13, got 11"):
        VGGConfig(depth=11, num_classes=10)
    for width in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match=f"width is from 1/16 to 1, got {width}"):
            MobileNetV2Config(num_classes=10, width=width)
