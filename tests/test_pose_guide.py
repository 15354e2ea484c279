"""docs/pose.md: its commands run in its order on a few people, its tables say what the code has."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import kdcache
from kdcache.classroom import POSE_METHODS
from kdcache.cli import main
from kdcache.datasets.people_dataset import VIEW_PARAMETERS
from kdcache.encode import MAP_ENCODERS
from kdcache.models.pose_names import POSE_SHORT_NAMES
from kdcache.train.task_defaults import DEFAULTS
from kdcache.views import PoseAffine
from tests.datasets.pose_files import small_poses

PAGE = (Path(__file__).parents[1] / "docs" / "pose.md").read_text()
COMMANDS = [
    shlex.split(line.removeprefix("$ "), comments=True)
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]
# Small networks in the place of large ones, and what makes each command small.
STAND_INS = {"sb50": "mbpose", "sb18": "lp18", "hrnet32": "lp18"}
SIDES = ("--recipe-option", "height=64", "--recipe-option", "width=32")
SMALLER = {
    "train-mentor": ("--epochs", "1", "--samples", "16", "--batch-size", "8", *SIDES),
    "precompute": ("--views", "1", "--samples", "16", *SIDES),
    "train-student": ("--epochs", "1", "--batch-size", "8"),
}
CONVERSION, LOOP = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
PUBLISHED = {"pose_hrnet_w32_256x192.pth": "lp18", "pose_resnet_50_256x192_rgb.pth": "mbpose"}


def run(words: list[str]) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, f"kdcache {shlex.join(words)}: {result.output}"
    return result.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDCACHE_DATA", str(small_poses(tmp_path / "data")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_its_commands_run_one_after_the_other() -> None:
    for file, name in PUBLISHED.items():
        torch.save(kdcache.build_network(name, 17, seed=1).state_dict(), file)
    names = re.compile(rf"\b({'|'.join(STAND_INS)})\b")
    ran = []
    for words in COMMANDS:
        if words[0] == "export":
            continue
        assert words[0] == "kdcache"
        main.commands[words[1]].make_context(words[1], words[2:])  # as it stands there
        smaller = [names.sub(lambda found: STAND_INS[found[1]], word) for word in words[1:]]
        run([*smaller, *SMALLER.get(words[1], ())])
        ran.append(words[1])
    assert ran[:6] == [
        "train-mentor", "train-mentor", "precompute", "inspect", "train-student", "evaluate",
    ]  # fmt: skip
    assert Path("student/student.safetensors").is_file()


def test_what_it_quotes_of_people_left_out_is_what_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "data" / "coco" / "person_keypoints_train2017_subset.json"
    text = file.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1)
    file.write_text(text)
    told = "coco-keypoints (train): left out, a crowd: 1 annotation (1)"
    assert told.partition(": 1 ")[0] in PAGE
    command = ["train-mentor", "lp18", "--dataset", "coco-keypoints", *SMALLER["train-mentor"]]
    assert told in run(command)
    words = ["precompute", "--mentors", "lp18", "--dataset", "coco-keypoints", "--dry-run"]
    assert told in run([*words, *SMALLER["precompute"]])


def test_its_conversion_of_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"conv1.weight": torch.randn(64, 3, 7, 7), "bn1.weight": torch.randn(64)}
    torch.save(weights, "pose_resnet_50_256x192.pth")
    exec(CONVERSION, {"torch": torch})
    found = torch.load("pose_resnet_50_256x192_rgb.pth")
    assert torch.equal(found["bn1.weight"], weights["bn1.weight"])
    pixels_B3HW = torch.rand(2, 3, 32, 32)
    theirs = torch.conv2d(pixels_B3HW.flip(1), weights["conv1.weight"])  # blue, green, red
    torch.testing.assert_close(torch.conv2d(pixels_B3HW, found["conv1.weight"]), theirs)


@pytest.mark.usefixtures("here")
def test_its_loop_trains() -> None:
    dataset = kdcache.open_dataset("coco-keypoints")
    torch.save(kdcache.build_network("lp18", 17, seed=1).state_dict(), "lp18.pth")
    recipe = PoseAffine(height=64, width=32)
    store = kdcache.precompute_targets(
        dataset, ["lp18"], checkpoints={"lp18": "lp18.pth"}, store="S", views=1, recipe=recipe
    )
    found = {"store": store, "torch": torch}
    exec(LOOP, found)
    assert found["out"].joints.active_BMJ.shape == (8, 1, 17)  # type: ignore[attr-defined]


def table_after(words: str) -> list[list[str]]:
    """The cells of the first table after these words, without its header."""
    lines = PAGE[PAGE.index(words) :].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_its_tables_say_what_the_code_has() -> None:
    recipe = {**PoseAffine().describe()}
    seen = set()
    for names, coco, mpii, _ in table_after("## Views"):
        keys = re.findall(r"`(\w+)`", names)
        for dataset, cell in (("coco-keypoints", coco), ("mpii", mpii)):
            stated = [float(number) for number in cell.split(",")]
            assert stated == [VIEW_PARAMETERS[dataset].get(key, recipe[key]) for key in keys]
        seen |= set(keys)
    assert seen == recipe.keys() - {"name", "version", "exact"}

    networks = {n for row in table_after("## Networks") for n in re.findall(r"`(\w+)`", row[0])}
    assert networks == set(POSE_SHORT_NAMES)
    assert DEFAULTS["pose"]["schedule"] == "steps-210"

    switches = set()
    loss = POSE_METHODS["classroom"]()
    for names, default, _ in table_after("## The classroom"):
        keys = [key.replace("-", "_") for key in re.findall(r"`--([\w-]+)`", names)]
        switches |= set(keys)
        if len(keys) == 1:
            assert default.strip("`") == str(getattr(loss, keys[0])), keys
    others = {"fixed_temperature", "beta", "sigmas"}
    assert switches | others == set(vars(loss))

    encoder = MAP_ENCODERS["heatmap8"].describe()
    (row,) = [row for row in table_after("## Encoders") if row[0].startswith("`heatmap8`")]
    assert row[2].startswith(
        f"{encoder['peak_error']} of the map's peak, or {encoder['absolute_error']} where"
    )
