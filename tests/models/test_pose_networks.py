"""Pose networks: shapes, counts, seeds, memory formats, learning; and who is refused for what."""

import builtins
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.models import (
    CLASSIFIER_NAMES,
    POSE_NETWORKS,
    build_network,
    checked_forward,
    long_name,
    output_of,
    require_output,
    short_name,
)
from kdcache.models.hrnet import HRNetConfig
from kdcache.models.light_pose import LightPoseConfig
from kdcache.models.simple_baseline import SimpleBaselineConfig

SHORT = ("sb18", "sb50", "sb101", "sb152", "lp18", "mbpose", "hrnet32", "hrnet48")
TRAINED_HERE = ("sb18", "lp18", "mbpose", "hrnet32")


def counted(name: str, joints: int, *, head: bool = False) -> tuple[int, int]:
    """Parameters, and multiply-adds at 256 x 192, of all or of what is not `backbone`.

    A multiply-add for each weight that each output number takes; of a transposed convolution with
    stride 2, for each weight that each input number meets.
    """
    with torch.device("meta"):
        network = build_network(name, joints).eval()
        pixels_BCHW = torch.empty(1, 3, 256, 192)
    multiply_adds = 0

    def add(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal multiply_adds
        assert isinstance(layer.weight, Tensor)
        numbers = args[0] if isinstance(layer, nn.ConvTranspose2d) else output
        multiply_adds += numbers.numel() * layer.weight[0].numel()

    for key, module in network.named_modules():
        counts = isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        if counts and not (head and key.startswith("backbone")):
            module.register_forward_hook(add)
    network(pixels_BCHW)
    parameters = sum(
        parameter.numel()
        for key, parameter in network.named_parameters()
        if not (head and key.startswith("backbone"))
    )
    return parameters, multiply_adds


# Sun et al. 2019, table 1 (https://arxiv.org/abs/1902.09212): parameters of both, GFLOPs of HRNet
# in 2^30. Theirs of SimpleBaseline (8.9, 12.4, 15.7) are near what counting each transposed
# convolution at all of its output would give (9.0, 12.4, 15.8), four times what it takes.
@pytest.mark.parametrize(
    ("name", "parameters_M", "giga"),
    [
        ("sb50", 34.0, None),
        ("sb101", 53.0, None),
        ("sb152", 68.6, None),
        ("hrnet32", 28.5, 7.1),
        ("hrnet48", 63.6, 14.6),
    ],
)
def test_published(name: str, parameters_M: float, giga: float | None) -> None:
    parameters, multiply_adds = counted(name, 17)
    assert round(parameters / 1e6, 1) == parameters_M
    assert giga is None or round(multiply_adds / 2**30, 1) == giga


def test_a_simple_baseline_is_a_resnet_and_its_head() -> None:
    """torchvision states 11,689,512 parameters for its ResNet-18, 513,000 of them in fc."""
    head = 16 * 256 * (512 + 256 + 256) + 3 * 2 * 256 + 256 * 17 + 17
    assert counted("sb18", 17)[0] == 11_689_512 - 513_000 + head
    assert counted("sb18", 17, head=True)[0] == head


# What light_pose.py states: whole and head.
@pytest.mark.parametrize(
    ("name", "parameters_M", "multiply_adds_M"),
    [
        ("mbpose", (1.90, 0.08), (300, 26)),
        ("lp18", (11.28, 0.11), (1804, 28)),
        ("sb18", (15.38, 4.20), (2897, 1121)),
    ],
)
def test_the_light_networks_cost_what_is_stated(
    name: str, parameters_M: tuple[float, float], multiply_adds_M: tuple[int, int]
) -> None:
    for head in (False, True):
        parameters, multiply_adds = counted(name, 17, head=head)
        assert round(parameters / 1e6, 2) == parameters_M[head]
        assert round(multiply_adds / 1e6) == multiply_adds_M[head]


@pytest.mark.parametrize("joints", [16, 17])
@pytest.mark.parametrize("size", [(256, 192), (128, 96)])
@pytest.mark.parametrize("name", SHORT)
def test_heatmaps_are_a_quarter_of_the_view(name: str, size: tuple[int, int], joints: int) -> None:
    with torch.device("meta"):
        network = build_network(name, joints).eval()
        output = checked_forward(
            name, network, torch.empty(2, 3, *size), joints, output="heatmaps", remedy=""
        )
    assert output.shape == (2, joints, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_both_memory_formats(name: str) -> None:
    network = build_network(name, 16, seed=0).eval()
    pixels_BCHW = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        heatmaps_BJHW = network(pixels_BCHW)
        channels_last_BJHW = network.to(memory_format=torch.channels_last)(
            pixels_BCHW.to(memory_format=torch.channels_last)
        )
    assert heatmaps_BJHW.shape == channels_last_BJHW.shape == (2, 16, 32, 24)
    assert heatmaps_BJHW.dtype == torch.float32
    scale = heatmaps_BJHW.std()
    assert scale > 0
    assert (heatmaps_BJHW - channels_last_BJHW).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_neighbours_do_not_change_a_rows_bits(name: str) -> None:
    """In passes of one shape, as mentors run: else cached would not equal online."""
    network = build_network(name, 17, seed=0).eval()
    network.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randn(64, 3, 64, 32, generator=generator)
    order = torch.randperm(64, generator=generator)

    def rows(pixels_BCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            heatmaps_BJHW: Tensor = network(pixels_BCHW.to(memory_format=torch.channels_last))
            return heatmaps_BJHW

    heatmaps_BJHW = rows(pixels_BCHW)
    assert torch.equal(rows(pixels_BCHW[order]), heatmaps_BJHW[order])
    padded = torch.zeros_like(pixels_BCHW)
    padded[:5] = pixels_BCHW[:5]
    assert torch.equal(rows(padded)[:5], heatmaps_BJHW[:5])


@pytest.mark.parametrize("name", ["sb18", "sb50", "lp18", "mbpose", "hrnet32"])
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    def weights(seed: int) -> Tensor:
        return nn.utils.parameters_to_vector(build_network(name, 17, seed=seed).parameters())

    torch.manual_seed(1)
    first = weights(5)
    torch.manual_seed(2)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_heads_are_drawn_narrowly(name: str) -> None:
    network = build_network(name, 17, seed=0)
    drawn = [
        module
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not key.startswith("backbone")
    ]
    for module in drawn:
        assert module.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert abs(module.weight.mean().item()) < 1e-4
        assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_a_few_steps_on_one_batch_lower_the_loss_and_every_parameter_learns(name: str) -> None:
    network = build_network(name, 17, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randn(4, 3, 64, 64, generator=generator)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre_BJ11 = 16 * torch.rand(2, 4, 17, 1, 1, generator=generator)
    label_BJHW = torch.exp(-((x - centre_BJ11[0]) ** 2 + (y - centre_BJ11[1]) ** 2) / 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = (network(pixels_BCHW) - label_BJHW).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    blank = label_BJHW.square().mean().item()  # what no map at all would cost
    assert losses[0] == pytest.approx(blank, rel=0.1)
    assert losses[-1] < 0.85 * blank
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_names() -> None:
    assert {long_name(name) for name in SHORT} == {long_name(name) for name in POSE_NETWORKS}
    assert [short_name(long_name(name)) for name in SHORT] == list(SHORT)
    assert long_name("sb50") == "simplebaseline-resnet50"
    assert long_name("mbpose") == "lightpose-mobilenetv2"
    with pytest.raises(UsageError, match=r"Did you mean .*simplebaseline-resnet50"):
        long_name("simplebaseline-resnet500")


def test_what_a_name_gives() -> None:
    assert {output_of(name) for name in POSE_NETWORKS} == {"heatmaps"}
    assert {output_of(name) for name in CLASSIFIER_NAMES} == {"classes"}
    assert output_of("wrn-22-4") == output_of("torchvision:resnet18") == "classes"
    assert output_of("my_networks:build") is None
    for name in ("my_networks:build", "sb18"):
        require_output("student", name, "heatmaps", remedy="")
    with pytest.raises(UsageError, match="unknown network 'sb19'"):
        require_output("student", "sb19", "heatmaps", remedy="")


def test_a_classifier_for_people_and_a_pose_network_for_classes_are_refused_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        require_output("student 'r20'", "r20", "heatmaps", remedy="Choose another --student")
    assert str(caught.value) == (
        "student 'r20' gives one number a class, expected one map a joint. Pose networks are "
        "sb18, sb50, sb101, sb152, lp18, mbpose, hrnet32, hrnet48, and your own by module:factory. "
        "Choose another --student"
    )
    with pytest.raises(UsageError, match=r"gives one map a joint, expected one .*class.* r8, r14,"):
        require_output("mentor 'sb18'", "sb18", "classes", remedy="")


def test_outputs_of_another_kind_or_shape_are_refused() -> None:
    images_BCHW = torch.zeros(2, 3, 64, 64)

    def refusal(name: str, *, output: Any = "heatmaps", joints: int = 17) -> str:
        network = build_network(name, 17, seed=0).eval()
        with pytest.raises(UsageError) as caught, torch.no_grad():
            checked_forward("it", network, images_BCHW, joints, output=output, remedy="Choose.")
        return str(caught.value)

    assert refusal("r8").startswith(
        "it must give one map a joint, (2, 17, 16, 16), for a batch of shape (2, 3, 64, 64); it "
        "gave (2, 17). Pose networks are sb18, "
    )
    said = refusal("sb18", output="classes")
    assert said.startswith("it must give one number a class, (2, 17), for a batch of shape")
    assert "it gave (2, 17, 16, 16). Classifiers are r8, " in said
    assert said.endswith("Choose.")
    assert refusal("sb18", joints=16).endswith("it gave (2, 17, 16, 16). Choose.")
    images_BCHW = torch.zeros(2, 3, 72, 64)
    message = "must be multiples of 32, such as 256 x 192. Choose."
    assert refusal("sb18").endswith(message)
    assert refusal("hrnet32").endswith(message)


def test_configs_refuse_impossible_networks() -> None:
    with pytest.raises(UsageError, match="one of 18, 50, 101, 152, got 34"):
        SimpleBaselineConfig(depth=34, num_joints=17)
    with pytest.raises(UsageError, match="width is at least 1, got 0"):
        SimpleBaselineConfig(depth=18, num_joints=17, width=0)
    with pytest.raises(UsageError, match="width is at least 1, got 0"):
        LightPoseConfig(trunk="resnet18", num_joints=17, width=0)
    with pytest.raises(UsageError, match="mobilenetv2 or resnet18, got 'resnet50'"):
        LightPoseConfig(trunk="resnet50", num_joints=17)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="width is 32 or 48, got 18"):
        HRNetConfig(width=18, num_joints=17)
    for refused in (
        lambda: SimpleBaselineConfig(depth=18, num_joints=0),
        lambda: LightPoseConfig(trunk="resnet18", num_joints=0),
        lambda: HRNetConfig(width=32, num_joints=0),
    ):
        with pytest.raises(UsageError, match="at least 1 joint, got 0"):
            refused()


def test_without_timm_an_hrnet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def importing(name: str, *args: Any, **options: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return really(name, *args, **options)

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)
    assert long_name("hrnet32") == "hrnet-w32"  # a store can be listed without
    with pytest.raises(UsageError, match=r"hrnet-w32 needs timm, .* pip install 'kdcache\[timm\]'"):
        build_network("hrnet32", 17)
