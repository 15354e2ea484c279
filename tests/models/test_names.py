"""Names, and networks from them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.models import KNOWN_NAMES, SHORT_NAMES, build_network, long_name, short_name


@pytest.mark.parametrize(("short", "long"), SHORT_NAMES.items())
def test_names_round_trip(short: str, long: str) -> None:
    assert long_name(short) == long_name(long) == long
    assert short_name(long) == short_name(short) == short


def test_the_relied_upon_names() -> None:
    assert long_name("r20") == "resnet20"
    assert long_name("r32x4") == "resnet32x4"
    assert short_name("wrn-16-2") == "wrn16"
    assert long_name("wrn40") == "wrn-40-2"


@pytest.mark.parametrize(
    "name",
    [
        *("vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"),
        *("wrn-28-10", "wrn-10-1", "torchvision:resnet50", "a.b:make"),
    ],
)
def test_networks_without_a_short_name_keep_the_long_one(name: str) -> None:
    assert long_name(name) == short_name(name) == name


def test_a_network_of_a_later_version_can_still_be_listed() -> None:
    assert short_name("hypernet-9000") == "hypernet-9000"


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_every_known_name_builds(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(build_network(name, 3), nn.Module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", r"unknown network 'resnet21'\. Did you mean resnet2?0?.*torchvision:NAME"),
        ("resnet152", r"package\.module:factory"),
        ("vgg11", r"Did you mean vgg1?3?8?"),
        ("", "unknown network ''"),
        ("wrn-17-2", r"6n \+ 4 .*got 17\. Did you mean wrn-16-2\?"),
        ("wrn-4-3", r"got 4\. Did you mean wrn-10-3\?"),
        ("wrn-016-2", "unknown network"),
        ("my-nets:build", "expected torchvision:NAME or package.module:factory"),
        ("torchvision:", "expected torchvision:NAME"),
        (":build", "expected torchvision:NAME"),
        ("../nets:build", "expected torchvision:NAME"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        long_name(name)
    with pytest.raises(UsageError, match=message):
        build_network(name, 10)


@pytest.mark.parametrize(
    ("classes", "seed", "message"),
    [
        (0, None, "at least 1 class, got 0"),
        (10, -1, "got -1"),
        (10, 2**63, "got 9223372036854775808"),
    ],
)
def test_arguments_out_of_range(classes: int, seed: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network("r8", classes, seed)


def test_torchvision_networks() -> None:
    with torch.device("meta"):
        network = build_network("torchvision:resnet18", 7)
        build_network(
            "torchvision:googlenet", 7
        )  # warns by itself, which these tests make an error
    assert network.fc.weight.shape == (7, 512)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"unknown torchvision classifier 'resnet19'.*resnet18"):
        build_network("torchvision:resnet19", 7)
    with pytest.raises(UsageError, match="unknown torchvision classifier"):
        build_network("torchvision:fasterrcnn_resnet50_fpn", 7)  # would download a backbone


def test_timm_says_how() -> None:
    with pytest.raises(UsageError, match=r"timm\.create_model\('resnet18'"):
        build_network("timm:resnet18", 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("kd_")]:
        del sys.modules[name]


def test_factories_from_the_current_folder(folder: Path) -> None:
    (folder / "kd_package").mkdir()
    (folder / "kd_package" / "__init__.py").touch()
    (folder / "kd_package" / "nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    import kd_late  # found while the factory runs\n"
        "    return nn.Linear(4, num_classes)\n"
    )
    (folder / "kd_late.py").touch()
    path = list(sys.path)
    network = build_network("kd_package.nets:make", 6)
    assert isinstance(network, nn.Linear)
    assert network.out_features == 6
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "kd_missing:make",
            r"'kd_missing:make': there is no module 'kd_missing', neither in .*Run from",
        ),
        ("kd_nets.deeper:make", r"there is no module 'kd_nets\.deeper'"),
        ("kd_imports:make", "importing kd_imports failed: No module named 'kd_elsewhere'"),
        ("kd_syntax:make", "importing kd_syntax failed: SyntaxError"),
        ("kd_nets:makes", r"there is no makes in .*kd_nets\.py\. Did you mean make\?"),
        ("kd_nets:zzz", r"there is no zzz in .*kd_nets\.py\.$"),
        ("kd_nets:size", "size in .* is a int, expected a function that returns the network"),
        ("kd_nets:fails", r"fails\(10\) in .* failed: ZeroDivisionError: .*this one argument"),
        ("kd_nets:no_arguments", r"no_arguments\(10\) in .* failed: TypeError"),
        ("kd_nets:number", r"number\(10\) returned 10, expected a torch\.nn\.Module"),
    ],
)
def test_factory_errors(folder: Path, name: str, message: str) -> None:
    (folder / "kd_nets.py").write_text(
        "size = 3\n"
        "def make(num_classes): ...\n"
        "def number(num_classes): return num_classes\n"
        "def fails(num_classes): return num_classes / 0\n"
        "def no_arguments(): ...\n"
    )
    (folder / "kd_imports.py").write_text("import kd_elsewhere\n")
    (folder / "kd_syntax.py").write_text("def\n")
    with pytest.raises(UsageError, match=message):
        build_network(name, 10)
    assert str(folder) not in sys.path


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(
    "name",
    [
        *("r8", "wrn-10-1"),
        *("vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"),
    ],
)
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    torch.manual_seed(1)
    first = weights(build_network(name, 10, seed=5))
    torch.manual_seed(2)
    with torch.device("meta"):  # a caller's default device has no say either
        again = weights(build_network(name, 10, seed=5))
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(build_network(name, 10, seed=6)))


def test_a_seed_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build_network("r8", 10, seed=5)
    with pytest.raises(UsageError):
        build_network("builtins:int", 10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    build_network("r8", 10)
    assert not torch.equal(torch.get_rng_state(), before)


def test_names_do_not_import_torch() -> None:
    code = (
        "import sys; from kdcache.models import long_name; import kdcache.checkpoints; "
        "assert long_name('r20') == 'resnet20'; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
