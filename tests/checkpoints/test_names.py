"""Other repositories' checkpoints of the same network load; those of another network never do."""

import argparse
import re
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcache.checkpoints import load_weights, save_weights
from kdcache.checkpoints.renaming import PREFIXES, renamed
from kdcache.datasets import open_dataset
from kdcache.errors import CheckpointError
from kdcache.models import build_network

State = dict[str, Tensor]
SUFFIXES = (".safetensors", ".pt", ".pth", ".th")


def respelt(state: State, prefix: str = "", *rules: tuple[str, str]) -> State:
    """A state dict as another repository names it; `rules` are regular expressions."""
    found = {}
    for key, value in state.items():
        for pattern, instead in rules:
            key = re.sub(pattern, instead, key)
        found[prefix + key] = value
    assert len(found) == len(state)
    return found


AKAMASTER_B = ((r"downsample", "shortcut"), (r"^fc\.", "linear."))
COMPRESSIBLE = (
    *AKAMASTER_B,
    (r"(^|\.)conv", r"\1compressible_conv"),
    ("linear", "compressible_linear"),
)


def trained(name: str = "r8", num_classes: int = 10) -> State:
    return dict(build_network(name, num_classes, seed=3).state_dict())


def loads(path: Path, name: str = "r8", num_classes: int = 10) -> bool:
    """Whether the file gives exactly the weights of `trained`."""
    network = build_network(name, num_classes, seed=4)
    load_weights(network, path)
    found, expected = network.state_dict(), trained(name, num_classes)
    return list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("rules", [(), AKAMASTER_B, COMPRESSIBLE, ((r"^fc\.", "classifier."),)])
@pytest.mark.parametrize("prefix", ["", *PREFIXES, "module._orig_mod.", "student.module.model."])
def test_prefixes_and_spellings(tmp_path: Path, prefix: str, rules: tuple[tuple[str, str]]) -> None:
    assert loads(saved(tmp_path / "net.pth", respelt(trained(), prefix, *rules)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-16-1"])
def test_prefixes_of_other_networks(tmp_path: Path, name: str, prefix: str) -> None:
    assert loads(saved(tmp_path / "net.pth", respelt(trained(name), prefix)), name)


@pytest.mark.parametrize(
    "wrapper",
    ["state_dict", "model", "net", "model_state_dict", "network", "weights", "ema"],
)
@pytest.mark.parametrize("old", [False, True])
def test_wrappers(tmp_path: Path, wrapper: str, old: bool) -> None:
    state = OrderedDict(respelt(trained(), "module.", *AKAMASTER_B))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], momentum=0.9).state_dict()
    content = {wrapper: state, "epoch": 3, "best": torch.tensor([71.5]), "optimizer": optimizer}
    path = tmp_path / "net.th"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert loads(path)


def test_a_network_that_has_the_other_names(tmp_path: Path) -> None:
    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.ModuleDict({"linear": nn.Linear(3, 2)})

    ours = nn.ModuleDict({"fc": nn.Linear(3, 2)})
    save_weights(tmp_path / "net.safetensors", ours, {})
    network = Theirs()
    load_weights(network, tmp_path / "net.safetensors")
    assert torch.equal(network.state_dict()["module.linear.weight"], ours["fc"].weight)  # type: ignore[arg-type]
    assert torch.equal(network.state_dict()["module.linear.bias"], ours["fc"].bias)  # type: ignore[arg-type]


def test_a_table_that_would_make_two_keys_one_is_not_used() -> None:
    both = {"fc.weight": torch.ones(1), "linear.weight": torch.zeros(1)}
    assert renamed(both, {"fc.weight": torch.ones(1)}) == both
    fits = {"shortcut.0.weight": torch.ones(1), "linear.weight": torch.zeros(1)}
    assert list(renamed(fits, fits)) == list(fits)


def test_files_from_before_the_batch_counters(tmp_path: Path) -> None:
    state = respelt(trained(), "module.", *AKAMASTER_B)
    content = {key: value for key, value in state.items() if "num_batches" not in key}
    network = build_network("r8", 10, seed=4)
    load_weights(network, saved(tmp_path / "net.th", {"state_dict": content, "best_prec1": 91.7}))
    found, expected = network.state_dict(), trained()
    assert all(torch.equal(found[k], expected[k]) for k in found if "num_batches" not in k)


def test_a_runs_options_and_numpy_numbers_beside_the_weights(tmp_path: Path) -> None:
    content = {
        "opt": argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180], path=Path("save")),
        "model": trained(),
        "best_acc": np.float64(75.25),
        "accuracy": np.float32(75.25),
        "top1": [np.float64(0.5), np.int64(3)],
        "scheduler": {"milestones": Counter([150, 180])},
    }
    for old in (False, True):
        path = tmp_path / f"net{old}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        assert loads(path)


# What is not the same network


def test_shortcuts_without_weights_are_another_network(tmp_path: Path) -> None:
    option_a = {k: v for k, v in trained().items() if "downsample" not in k}
    path = saved(tmp_path / "a.th", {"state_dict": respelt(option_a, "module.", *AKAMASTER_B)})
    with pytest.raises(CheckpointError) as caught:
        load_weights(build_network("r8", 10), path)
    first, missing, last = str(caught.value).splitlines()
    assert first == f"{path} is not a checkpoint of this CifarResNet:"
    assert missing.startswith(
        "  10 keys the network expects and the file lacks: layer2.0.downsample.0.weight; "
    )
    assert missing.endswith(" more")
    assert last.startswith("Give the checkpoint of this very network")


def test_both_sides_are_listed_after_the_renaming_in_the_files_spelling(tmp_path: Path) -> None:
    state = respelt(trained(), "module.", *AKAMASTER_B)
    state["module.layer4.0.conv1.weight"] = state.pop("module.layer3.0.conv1.weight")
    with pytest.raises(CheckpointError) as caught:
        load_weights(build_network("r8", 10), saved(tmp_path / "a.pth", state))
    assert str(caught.value).splitlines()[1:3] == [
        "  1 key the network expects and the file lacks: layer3.0.conv1.weight",
        "  1 key the file has and the network does not know: module.layer4.0.conv1.weight",
    ]


def test_another_class_count_is_found_behind_other_names(tmp_path: Path) -> None:
    state = respelt(trained("r8", 100), "module.", *AKAMASTER_B)
    with pytest.raises(CheckpointError, match=r"has 100 classes, the dataset has 10\."):
        load_weights(build_network("r8", 10), saved(tmp_path / "a.pth", state))


@pytest.mark.parametrize("theirs", ["r14", "r8x4", "wrn-10-1"])
def test_another_network_never_loads_under_other_names(tmp_path: Path, theirs: str) -> None:
    path = saved(tmp_path / "a.pth", respelt(trained(theirs), "module.", *AKAMASTER_B))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this CifarResNet"):
        load_weights(build_network("r8", 10), path)


def test_a_wide_resnets_other_names_are_not_guessed(tmp_path: Path) -> None:
    rules = ((r"block(\d)\.layer\.", r"layer\1."), ("convShortcut", "shortcut.0"))
    path = saved(tmp_path / "a.pth", respelt(trained("wrn-10-1"), "", *rules))
    with pytest.raises(CheckpointError, match="the network expects and the file lacks: block1"):
        load_weights(build_network("wrn-10-1", 10), path)


def test_a_resnet50_with_torchvisions_names_is_another_network(tmp_path: Path) -> None:
    network = build_network("resnet50", 10, seed=3)
    state = dict(network.state_dict())
    load_weights(network, saved(tmp_path / "crd.pth", {"model": respelt(state, "module.")}))
    path = saved(
        tmp_path / "a.pth", respelt(state, "", ("shortcut", "downsample"), ("linear", "fc"))
    )
    with pytest.raises(CheckpointError, match=r"the file lacks: layer4\.0\.shortcut\.0\.weight"):
        load_weights(network, path)


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"])
def test_the_classrooms_networks_from_training_scripts(tmp_path: Path, name: str) -> None:
    network = build_network(name, 10, seed=3)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    other = build_network(name, 10, seed=4)
    # As the CRD benchmark saves them.
    content = {"epoch": 240, "model": respelt(state, "module."), "best_acc": 70.1}
    load_weights(other, saved(tmp_path / "ckpt_epoch_240.pth", content))
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_two_state_dicts_are_not_chosen_from(tmp_path: Path) -> None:
    content = {"model": trained(), "ema": trained(), "optimizer": {}}
    with pytest.raises(CheckpointError, match=r"holds several state dicts: model, ema\. Save"):
        load_weights(build_network("r8", 10), saved(tmp_path / "a.pth", content))
    assert loads(saved(tmp_path / "b.pth", {**content, "ema": {"decay": 0.99}}))


# The real thing


def test_a_trained_mentor_in_every_dress_gives_the_same_predictions(
    tmp_path: Path, real_data: Path
) -> None:
    original = next((real_data / "mentors" / "cifar100").glob("resnet20.*"))
    images = open_dataset("cifar100", "test", samples=1000)
    pixels_BCHW = images.preprocessing(torch.from_numpy(images.images(images.index_N)))
    labels_B = torch.from_numpy(images.labels(images.index_N))
    network = build_network("r20", 100, seed=0).eval()

    def logits(path: Path) -> Tensor:
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        load_weights(network, path)
        with torch.inference_mode():
            output: Tensor = network(pixels_BCHW)
            return output

    expected = logits(original)
    top1 = (expected.argmax(-1) == labels_B).float().mean()
    assert top1 > 0.65
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for number, suffix in enumerate(SUFFIXES):
        dressed = respelt(state, ("", "module.", "_orig_mod.", "model.")[number], *AKAMASTER_B)
        path = tmp_path / f"net{suffix}"
        if suffix == ".safetensors":
            save_weights(path, dressed, {})
        else:
            wrapper = {".pt": "model_state_dict", ".pth": "model", ".th": "state_dict"}[suffix]
            torch.save(
                {wrapper: dressed, "opt": argparse.Namespace(), "best_acc": np.float64(0.7)},
                path,
                _use_new_zipfile_serialization=suffix != ".th",
            )
        fresh = build_network("r20", 100, seed=0)
        load_weights(fresh, path)
        found = fresh.state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    assert torch.equal(logits(path), expected)
