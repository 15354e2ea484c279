"""What is made of strangers' texts before a person reads them or copies them into a shell."""

import shlex
from pathlib import Path

import pytest

from kdcache.errors import MOST_MESSAGE, KdcacheError, StoreError, UsageError, both_sides, readable
from kdcache.mentors import RunShape
from kdcache.plan import MOST_CHUNKS, make_plan
from kdcache.store import healing_command, open_store, read_manifest
from kdcache.store.commit_record import CommitRecord
from kdcache.store.plain import MOST_DESCRIPTION, MOST_TEXT, require_plain
from kdcache.views import CropFlip
from kdcache.wanted import Wanted
from tests.hostile.forging import agree, attributes
from tests.hostile.good import Good, make_good


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.store.layout.TARGET_BLOCK", 8192)  # it sets its own; restored after
        return make_good(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Zürich, 数字", "plain, Zürich, 数字"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2J\x07\x00\x7f", r"\x1b[2J\x07\x00\x7f"),
        ("right\u202eleft", r"right\u202eleft"),
        ("half \udcff", r"half \udcff"),
        ("\r\t", r"\r\t"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert readable(text) == shown
    assert str(StoreError(text)) == shown
    assert str(UsageError(text)) == shown


def test_messages_have_an_end() -> None:
    assert readable("a" * MOST_MESSAGE) == "a" * MOST_MESSAGE
    for text in ("a" * 10**6, "\x1b" * 10**6, "a\n" * 10**6):
        assert len(str(KdcacheError(text))) <= MOST_MESSAGE
    assert "(1,000,000 characters)" in str(KdcacheError("a" * 10**6))


def test_tables_have_an_end() -> None:
    text = "a" * 10**6
    wide = {str(n): (text, n) for n in range(50_000)}
    table = both_sides("left", "right", wide)
    assert len(table) < 20_000
    assert "and 49,960 more" in table


def test_healing_commands_name_no_factory_of_the_stores(good: Good, tmp_path: Path) -> None:
    root = tmp_path / "a store; rm -rf ~"
    good.root.rename(root)
    try:
        store = open_store(root)
        words = shlex.split(healing_command(store, ["r8", "evil:factory", "torchvision:resnet18"]))
        assert words[words.index("--store") + 1] == str(root)
        named = [words[at + 1] for at, word in enumerate(words) if word == "--mentors"]
        assert named == ["r8", "MODULE:FACTORY,torchvision:resnet18"]  # made in different ways
        store.manifest.dataset["name"] = "shutil:rmtree"
        assert "rmtree" not in healing_command(store, ["r8"])
    finally:
        root.rename(good.root)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\u202e", "x" * (MOST_TEXT + 1)])
def test_names_must_be_short_and_printable(name: str, good: Good, tmp_path: Path) -> None:
    manifest = tmp_path / "zarr.json"
    manifest.write_bytes((good.root / "zarr.json").read_bytes())
    attributes(manifest, lambda found: found["dataset"].update(name=name))
    agree(tmp_path)
    with pytest.raises(StoreError, match="dataset holds a text that is too long or not printable"):
        read_manifest(tmp_path)


def test_descriptions_must_be_small() -> None:
    require_plain("it", {"a": ["b"] * 1000})
    with pytest.raises(ValueError, match="it is longer than 10,000 characters"):
        require_plain("it", {"a": [1] * MOST_DESCRIPTION})


@pytest.mark.parametrize(
    "changed",
    [
        {"view": 2**32},
        {"correct": 21},
        {"error_sums": {"a": 1e308}},
        {"error_sums": {"a": -1.0}},
        {"error_sums": {"a": float("nan")}},
        {"error_sums": {"measured_rows": 1e-300}},
        {"error_sums": {str(n): 1.0 for n in range(101)}},
        {"error_sums": {"\x1b[2J": 1.0}},
    ],
)
def test_records_that_no_writer_wrote(changed: dict[str, object]) -> None:
    record = {
        "view": 1, "block": 0, "rows": 20, "bytes": 400, "crc32c": "0" * 8, "sha256": "0" * 64,
        "identity": "0" * 64, "correct": 20, "error_sums": {"measured_rows": 20.0, "a": 0.5},
    }  # fmt: skip
    assert CommitRecord.from_json("000001.000000.00000000.json", record).correct == 20
    name = f"{changed.get('view', 1):06d}.000000.00000000.json"
    with pytest.raises(ValueError, match=r"states|error.sums"):
        CommitRecord.from_json(name, {**record, **changed})


def test_a_plan_that_nobody_finishes_is_refused(good: Good) -> None:
    store = open_store(good.root)
    r8 = store.mentor("r8")
    wanted = [Wanted(mentor=r8.manifest, kind=r8.kind, encoder=r8.encoder)]
    with pytest.raises(UsageError, match=r"2,147,483,648 views in 2 blocks .* say with --views"):
        make_plan(good.root, store.manifest, wanted, 2**31, {})
    most = MOST_CHUNKS // 2
    plan = make_plan(good.root, store.manifest, wanted, most, {})
    assert plan.new == {"r8": MOST_CHUNKS}


@pytest.mark.parametrize("batch", [63, 8193, 10**12, 64.0, "64", True, None])
def test_run_shapes_of_others(batch: object) -> None:
    described = {"precision": "fp32", "batch": batch, "memory_format": "contiguous"}
    with pytest.raises(UsageError, match="batches of at least 64"):
        RunShape.from_description(described)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 8.0}, {"size": True}, {"padding": "4"}, {"flip": "yes"}, {"flip": 1},
     {"padding": 129}, {"size": 2**16 + 1}],
)  # fmt: skip
def test_crops_of_others(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"must be integers|need size <="):
        CropFlip(**wrong)  # type: ignore[arg-type]
