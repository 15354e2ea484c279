"""Pooled features: the classifier's input, whatever the network and however it is run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models import CLASSIFIER_NAMES, build_network
from kdcache.models.pooled_features import FeatureTap, feature_width

OURS = ["r8", "wrn-10-1"]
CLASSROOM = ["vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"]


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def features_and_logits(network: nn.Module, pixels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    with FeatureTap(network, classes) as tap:
        logits_BC = network(pixels)
    return tap.features_BF, logits_BC


@pytest.mark.parametrize("name", [*OURS, *CLASSROOM])
def test_our_networks_say_the_same_themselves(name: str) -> None:
    network = build_network(name, 7, seed=0).eval()
    features_BF, logits_BC = features_and_logits(network, images(), 7)
    assert torch.equal(features_BF, network.pooled_features(images()))  # type: ignore[operator]
    assert torch.equal(logits_BC, network(images()))
    assert feature_width(network, images()) == features_BF.shape[1]


# What torchvision's documentation calls the classifier, by the name it has there.
@pytest.mark.parametrize(
    ("name", "size", "last", "width"),
    [
        ("resnet18", 32, "fc", 512),
        ("vgg11", 32, "classifier.6", 4096),
        ("mobilenet_v2", 32, "classifier.1", 1280),
        ("vit_b_16", 224, "heads.head", 768),
    ],
)
def test_torchvisions_networks(name: str, size: int, last: str, width: int) -> None:
    network = build_network(f"torchvision:{name}", 9, seed=0).eval()
    with torch.no_grad():
        features_BF, logits_BC = features_and_logits(network, images(2, size), 9)
        assert features_BF.shape == (2, width)
        torch.testing.assert_close(network.get_submodule(last)(features_BF), logits_BC)


def test_a_classifier_that_is_a_convolution_over_maps() -> None:
    network = build_network("torchvision:squeezenet1_1", 9, seed=0).eval()
    with torch.no_grad():
        features_BF, _ = features_and_logits(network, images(2, 64), 9)
        maps_BCHW = network.features(images(2, 64))  # type: ignore[operator]
    assert maps_BCHW.shape[2:] != (1, 1)
    torch.testing.assert_close(features_BF, maps_BCHW.mean((2, 3)))
    assert feature_width(network, images(2, 64)) == 512


def test_a_linear_classifier_over_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5)

        def forward(self, pixels_BCHW: Tensor) -> Tensor:
            logits: Tensor = self.head(input=pixels_BCHW.permute(0, 2, 3, 1))
            return logits.mean((1, 2))

    features_BF, _ = features_and_logits(Tokens(), images(4, 8), 5)
    torch.testing.assert_close(features_BF, images(4, 8).mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_timms_networks(name: str) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=9).eval()
    with torch.no_grad():
        features_BF, logits_BC = features_and_logits(network, images(2, 224), 9)
        torch.testing.assert_close(network.get_classifier()(features_BF), logits_BC)


class TwoHeads(nn.Module):
    """An auxiliary head that runs after the one that counts, and a hidden layer as wide as both."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer
        self.hidden = nn.Linear(3, 6)
        self.head = nn.Linear(6, 6)
        self.auxiliary = nn.Linear(3, 6)
        self.seen: dict[str, Tensor] = {}

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        mean_BC = pixels_BCHW.mean((2, 3))
        hidden_BC = self.hidden(mean_BC).relu()
        logits_BC: Tensor = self.head(hidden_BC)
        other_BC: Tensor = self.auxiliary(mean_BC)
        self.seen = {"head": hidden_BC, "auxiliary": mean_BC}
        if self.answer == "head":
            return logits_BC
        if self.answer == "a view of head":
            return logits_BC[:, None].flatten(1)
        return other_BC if self.answer == "auxiliary" else logits_BC + other_BC


@pytest.mark.parametrize(
    ("answer", "of"),
    [
        ("head", "head"),
        ("a view of head", "head"),
        ("auxiliary", "auxiliary"),
    ],
)
def test_of_several_the_one_that_became_the_output(answer: str, of: str) -> None:
    network = TwoHeads(answer)
    features_BF, _ = features_and_logits(network, images(), 6)
    assert features_BF is network.seen[of]


def test_several_that_are_mixed_are_refused() -> None:
    with pytest.raises(UsageError, match="several such layers ran"):
        features_and_logits(TwoHeads("both"), images(), 6)


@pytest.mark.parametrize("classes", [16, 64])
def test_layers_within_that_are_as_wide_as_the_classes(classes: int) -> None:
    network = build_network("r8", classes, seed=0).eval()  # its shortcuts are 1x1, 32 and 64 wide
    features_BF, _ = features_and_logits(network, images(), classes)
    assert torch.equal(features_BF, network.pooled_features(images()))  # type: ignore[operator]


def test_a_network_that_is_its_classifier() -> None:
    pixels_BF = torch.randn(3, 4)
    features_BF, _ = features_and_logits(nn.Linear(4, 2), pixels_BF, 2)
    assert torch.equal(features_BF, pixels_BF)


@pytest.mark.parametrize("name", OURS)
def test_gradients_pass(name: str) -> None:
    network = build_network(name, 5, seed=0)
    features_BF, logits_BC = features_and_logits(network, images(), 5)
    (logits_BC.sum() + features_BF.square().sum()).backward()  # type: ignore[no-untyped-call]
    tapped = [parameter.grad for parameter in network.parameters()]

    again = build_network(name, 5, seed=0)
    given_BF = again.pooled_features(images())  # type: ignore[operator]
    logits_BC = again.fc(given_BF)  # type: ignore[operator]
    (logits_BC.sum() + given_BF.square().sum()).backward()
    for one, other in zip(tapped, again.parameters(), strict=True):
        assert one is not None
        assert other.grad is not None
        assert torch.equal(one, other.grad)


@pytest.mark.parametrize("name", OURS)
def test_under_autocast_in_channels_last(name: str) -> None:
    network = build_network(name, 5, seed=0).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features_BF, logits_BC = features_and_logits(
            network, images().to(memory_format=torch.channels_last), 5
        )
    assert logits_BC.dtype == torch.bfloat16
    assert features_BF.dtype == torch.float32
    assert features_BF.requires_grad
    features_BF.sum().backward()  # type: ignore[no-untyped-call]
    assert network.conv1.weight.grad.any()  # type: ignore[union-attr, operator]


def test_each_pass_has_its_own_features_and_none_is_kept_of_others() -> None:
    network = build_network("r8", 5, seed=0).eval()
    tap = FeatureTap(network, 5)
    with tap:
        network(images())
        first_BF = tap.features_BF
        network(images(2, 8))
        assert tap.features_BF.shape == (2, 64)
    second_BF = tap.features_BF
    network(images())  # outside
    assert tap.features_BF is second_BF
    with tap:
        network(images())
        assert torch.equal(tap.features_BF, first_BF)


def test_no_hook_is_left() -> None:
    network = build_network("r8", 5, seed=0)
    with pytest.raises(RuntimeError), FeatureTap(network, 5):
        network(torch.zeros(1))
    feature_width(network, images())
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_copy_made_inside_is_another_network() -> None:
    network = build_network("r8", 5, seed=0)
    with FeatureTap(network, 5) as tap:
        network(images())
        features_BF = tap.features_BF
        copied = copy.deepcopy(network)
        copied(images(2))
        assert tap.features_BF is features_BF
    features_and_logits(copied, images(2), 5)


def test_feature_width_leaves_the_network_as_it_was() -> None:
    network = build_network("r8", 5, seed=0)
    network.layer1.eval()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    assert feature_width(network, images()) == 64
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class Functional(nn.Module):
    """Its classifier's weights are used, but the module never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return F.linear(pixels_BCHW.mean((2, 3)), self.fc.weight)


class OtherRows(nn.Module):
    """Its classifier sees half images as rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        halves: Tensor = self.fc(torch.cat(pixels_BCHW.mean(3).chunk(2, dim=2)).mean(2))
        return halves.view(2, -1, 5).mean(0)


def test_networks_without_a_classifier() -> None:
    with pytest.raises(UsageError, match=r"CifarResNet has no classifier .* with 6 outputs"):
        FeatureTap(build_network("r8", 5, seed=0), 6)
    with pytest.raises(UsageError, match=r"Conv2d has no classifier"):
        FeatureTap(nn.Conv2d(3, 6, 3), 6)
    with pytest.raises(UsageError, match=r"Conv2d has no classifier"):
        FeatureTap(nn.Conv2d(6, 6, 1, groups=6), 6)
    for network in (Functional(), OtherRows()):
        with FeatureTap(network, 5) as tap:
            network(images())
        with pytest.raises(UsageError, match="did not run as a module that takes one row a sample"):
            _ = tap.features_BF
        with pytest.raises(UsageError, match="did not run as a module"):
            feature_width(network, images())
    with pytest.raises(UsageError, match="run it inside `with tap:`"):
        _ = FeatureTap(build_network("r8", 5), 5).features_BF
    with pytest.raises(UsageError, match=r"one number a class.*\(4, 5, 32, 32\)"):
        feature_width(nn.Conv2d(3, 5, 1), images())
    with pytest.raises(UsageError, match=r"one number a class.*it gave .*tuple"):
        feature_width(nn.Sequential(nn.Flatten(), nn.LSTM(3072, 5)), images())


def test_every_classifier_by_name_has_a_classifier() -> None:
    for name in CLASSIFIER_NAMES:
        with torch.device("meta"):
            FeatureTap(build_network(name, 7), 7)


@pytest.mark.parametrize("name", ["sb18", "mbpose", "hrnet32"])
def test_pose_networks_have_no_pooled_features(name: str) -> None:
    network = build_network(name, 5, seed=0).eval()
    with torch.no_grad(), FeatureTap(network, 5) as tap:
        network(images(2, 64))
    message = r"gives maps, \(2, 5, 16, 16\), and has no pooled features: those are a classifier's"
    with pytest.raises(UsageError, match=message):
        _ = tap.features_BF
    with pytest.raises(UsageError, match=r"one number a class.*it gave \(2, 5, 16, 16\)"):
        feature_width(network, images(2, 64))
