"""Published pose checkpoints land in their place, whoever wrote them, and mean the same there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcache.checkpoints import load_weights, save_weights
from kdcache.errors import CheckpointError
from kdcache.models import build_network
from tests.models.plain_pose import Plain, hrnet, simple_baseline

State = dict[str, Tensor]
JOINTS = 5
PLAIN: dict[str, Callable[[Plain, Tensor], Tensor]] = {
    "sb18": lambda net, x: simple_baseline(net, x, 18, JOINTS),
    "sb50": lambda net, x: simple_baseline(net, x, 50, JOINTS),
    "hrnet32": lambda net, x: hrnet(net, x, 32, JOINTS),
}


def mmpose(head: str) -> Callable[[State], State]:
    def respelt(state: State) -> State:
        of_head = re.compile(r"(deconv_layers|final_layer)\.")
        return {(head if of_head.match(k) else "backbone.") + k: v for k, v in state.items()}

    return respelt


SPELLINGS: dict[str, Callable[[State], State]] = {
    "Microsoft": dict,
    "Microsoft, in parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "mmpose 0": mmpose("keypoint_head."),
    "mmpose 1": mmpose("head."),
    "mmpose 1, in parallel": lambda state: {
        f"module.{k}": v for k, v in mmpose("head.")(state).items()
    },
}


@pytest.fixture(scope="module", params=PLAIN)
def published(request: pytest.FixtureRequest) -> tuple[str, State, Tensor, Tensor]:
    """A network's name, weights by their published names, images, and the heatmaps of these."""
    net = Plain()
    images_BCHW = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    heatmaps_BJHW = PLAIN[request.param](net, images_BCHW)
    return request.param, net.weights, images_BCHW, heatmaps_BJHW


def heatmaps(network: nn.Module, images_BCHW: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = network.eval()(images_BCHW)
        return output


def assert_equal(found_BJHW: Tensor, expected_BJHW: Tensor) -> None:
    """But for rounding: sums are made in another order, and numbers reach hundreds."""
    assert found_BJHW.shape == expected_BJHW.shape
    assert (found_BJHW - expected_BJHW).abs().max() < 1e-4 * expected_BJHW.std()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_weight_lands_in_its_place(
    tmp_path: Path, published: tuple[str, State, Tensor, Tensor], spelling: str
) -> None:
    name, state, images_BCHW, expected_BJHW = published
    path = tmp_path / "pose.pth"
    torch.save({"state_dict": SPELLINGS[spelling](state), "epoch": 140}, path)
    network = build_network(name, JOINTS, seed=0)
    load_weights(network, path)
    ours = {key.removeprefix("backbone."): value for key, value in network.state_dict().items()}
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[key], value) for key, value in state.items())
    assert_equal(heatmaps(network, images_BCHW), expected_BJHW)


def test_our_own_file_gives_the_same_bits(
    tmp_path: Path, published: tuple[str, State, Tensor, Tensor]
) -> None:
    name, state, images_BCHW, _ = published
    torch.save(state, tmp_path / "theirs.pth")
    network = build_network(name, JOINTS, seed=0)
    load_weights(network, tmp_path / "theirs.pth")
    save_weights(tmp_path / "ours.safetensors", network, {})
    again = build_network(name, JOINTS, seed=1)
    load_weights(again, tmp_path / "ours.safetensors")
    assert torch.equal(heatmaps(network, images_BCHW), heatmaps(again, images_BCHW))


def test_files_from_before_the_batch_counters(
    tmp_path: Path, published: tuple[str, State, Tensor, Tensor]
) -> None:
    name, state, images_BCHW, expected_BJHW = published
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(mmpose("keypoint_head.")(old), tmp_path / "old.pth")
    network = build_network(name, JOINTS, seed=0)
    load_weights(network, tmp_path / "old.pth")
    assert_equal(heatmaps(network, images_BCHW), expected_BJHW)


@pytest.mark.parametrize("spelling", ["Microsoft", "mmpose 1, in parallel"])
def test_another_number_of_joints_is_refused_with_both_sides(
    tmp_path: Path, published: tuple[str, State, Tensor, Tensor], spelling: str
) -> None:
    name, state, _, _ = published
    torch.save(SPELLINGS[spelling](state), tmp_path / "pose.pth")
    network = build_network(name, 17, seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"pose\.pth has 5 joints, the dataset has 17\."):
        load_weights(network, tmp_path / "pose.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_another_pose_network_never_loads(
    tmp_path: Path, published: tuple[str, State, Tensor, Tensor]
) -> None:
    name, state, _, _ = published
    torch.save(mmpose("head.")(state), tmp_path / "pose.pth")
    for other in {"sb18", "lp18", "mbpose"} - {name}:
        with pytest.raises(CheckpointError, match="is not a checkpoint of this"):
            load_weights(build_network(other, JOINTS, seed=0), tmp_path / "pose.pth")


def test_a_classifiers_mixed_prefixes_are_no_pose_networks(tmp_path: Path) -> None:
    network = build_network("torchvision:resnet18", 7, seed=0)
    state = network.state_dict()
    mixed = {k if k.startswith("fc.") else f"backbone.{k}": v for k, v in state.items()}
    torch.save(mixed, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="the file has and the network does not know"):
        load_weights(network, tmp_path / "net.pth")
