"""The benchmarks' statistics on fixed numbers, and every group of rows at its smallest size."""

import mmap
import tempfile
import time
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import GROUPS, main
from benchmarks.material import Settings
from benchmarks.page_cache import StillCached, cached_pages, forget_pages
from benchmarks.paired import (
    Budget,
    SidesDiffer,
    Spread,
    interleave,
    ratio,
    require_same,
    spread,
    timed,
    verdict,
)
from benchmarks.readers.comparing import READERS
from benchmarks.results_file import put, require_places
from benchmarks.table import Row, Skipped, markdown, number
from tests.test_benchmark_readers import can_import

QUICK_SECONDS = 60  # generous; about three on a quiet machine


def test_interval_of_nine_is_the_second_and_the_eighth_value() -> None:
    found = spread([5.0, 1.0, 2.0, 100.0, 4.0, 6.0, 3.0, 8.0, 7.0])
    assert found == Spread(median=5.0, low=2.0, high=8.0, n=9)


@pytest.mark.parametrize(
    ("n", "low", "high"), [(1, 1, 1), (2, 1, 2), (5, 1, 5), (6, 1, 6), (8, 1, 8), (27, 8, 20)]
)
def test_interval_by_number_of_values(n: int, low: int, high: int) -> None:
    """Textbook ranks of the sign test's interval; below six values the whole range."""
    found = spread(list(range(1, n + 1)))
    assert (found.low, found.high) == (low, high)


def test_ratio_is_taken_within_rounds() -> None:
    """A machine that becomes ten times slower in between changes nothing."""
    assert ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == spread([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "expected"),
    [
        (1.0, 1.1, True, "met"),
        (0.9, 0.99, True, "not met"),
        (0.9, 1.1, True, "not decidable here"),
        (0.9, 1.0, False, "met"),
        (1.01, 1.1, False, "not met"),
        (0.9, 1.1, False, "not decidable here"),
    ],
)
def test_verdicts(low: float, high: float, higher_is_better: bool, expected: str) -> None:
    measured = Spread(median=(low + high) / 2, low=low, high=high, n=9)
    assert verdict(measured, Budget(limit=1.0, higher_is_better=higher_is_better)) == expected


def test_no_budget_no_verdict() -> None:
    assert verdict(spread([1.0]), None) == ""


def test_sides_take_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_timed_counts_every_call() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(1), calls=3)() >= 0
    assert len(calls) == 3


def test_sides_that_disagree_are_not_timed() -> None:
    require_same(True, "rows")
    with pytest.raises(SidesDiffer, match="disagree on rows"):
        require_same(False, "rows")


def test_row_prints_number_interval_budget_and_verdict() -> None:
    measured = Spread(median=21.5, low=20.5, high=22.25, n=9)
    row = Row(what="a / b", measured=measured, budget=Budget(limit=20, aim=45), detail="sizes")
    line, detail = row.lines()
    assert line.split() == ["a", "/", "b", "21.5", "[20.5,", "22.25]", ">=", "20", "45", "met", "9"]
    assert detail.strip() == "sizes"


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (0.98765, "0.9877"), (12345.6, "12,346"), (0.00012, "0.00012")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


LONG_GROUPS = ("sharing", "pose", "reading", "readers")


@pytest.mark.parametrize(
    "name",
    [pytest.param(g, marks=[pytest.mark.slow] if g in LONG_GROUPS else []) for g in GROUPS],
)
def test_every_group_measures_on_stand_ins(name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        rows = list(GROUPS[name](Settings(folder=tmp_path, repeats=2, quick=True)))
    finally:
        torch.set_num_threads(threads)
    assert time.perf_counter() - started < QUICK_SECONDS
    assert rows
    for row in rows:
        assert all(line.strip() for line in row.lines())
        if isinstance(row, Row) and row.budget is not None:
            assert row.verdict
    skipped = [row for row in rows if isinstance(row, Skipped)]
    if name == "encoders":
        assert skipped == rows
    elif name == "pose":  # bytes alone need trained mentors
        assert len(skipped) == 1
        assert len(rows) > 8
    elif name == "readers":
        assert len(skipped) == sum(not can_import(reader.libraries) for reader in READERS)
        assert len(rows) > len(skipped)
    elif name == "cold" and skipped:
        assert len(rows) == 1
        assert "page cache" in skipped[0].why
    else:
        assert not skipped


def test_command_prints_one_table_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("KDCACHE_DATA", raising=False)
    threads = torch.get_num_threads()
    result = CliRunner().invoke(main, ["--quick", "--only", "views", "--only", "encoders"])
    assert result.exit_code == 0, result.output
    for expected in ("hardware", "versions", "torch threads", "views/s", "skipped: needs trained"):
        assert expected in result.output
    assert "resident" not in result.output
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == threads


def test_the_results_file_holds_what_was_printed_and_what_was_written_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDCACHE_DATA", raising=False)
    results = tmp_path / "benchmarks.md"
    results.write_text("# Ours\n\nWhy.\n")
    arguments = ["--quick", "--only", "encoders", "--only", "views", "--markdown", str(results)]
    printed = CliRunner().invoke(main, arguments).output
    text = results.read_text()
    assert text.startswith("# Ours\n\nWhy.\n")
    header, _, table = printed.partition("\n\n")
    assert text.count(f"```\n{header}\n```") == 2
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| ")]
    written = [" ".join(" ".join(cells).split()) for cells in rows]
    # A row and its detail are one line there; each group has its own heading, with one name more.
    shown = " ".join(table.replace("\n    ", " ").split())
    heading = "what median interval budget aim verdict n"
    assert written.count(f"{heading} measured") == 2
    assert " ".join(w for w in written if not w.startswith(heading)) == shown.removeprefix(
        f"{heading} "
    )

    between = text.replace("\n## encoders", "\nA word in between.\n\n## encoders")
    results.write_text(between)
    CliRunner().invoke(main, [*arguments[:3], "--markdown", str(results)])
    lines = [line for line in between.splitlines() if not line.startswith("hardware")]
    again = [line for line in results.read_text().splitlines() if not line.startswith("hardware")]
    assert again == lines


@pytest.mark.parametrize(
    "wrong",
    [
        "<!-- python -m benchmarks --only views -->",
        "<!-- end of views -->",
        "<!-- end of views --><!-- python -m benchmarks --only views -->",
        2 * "<!-- python -m benchmarks --only views --><!-- end of views -->",
    ],
)
def test_a_results_file_without_a_clear_place_is_refused_before_any_work(
    tmp_path: Path, wrong: str
) -> None:
    results = tmp_path / "benchmarks.md"
    results.write_text(wrong)
    result = CliRunner().invoke(main, ["--quick", "--only", "views", "--markdown", str(results)])
    assert result.exit_code == 1
    assert "expected one mark" in result.output
    assert "hardware" not in result.output
    assert results.read_text() == wrong


def test_a_results_file_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["--quick", "--only", "views", "--markdown", str(tmp_path / "file/results.md")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "choose another" in result.output
    assert "hardware" not in result.output


@given(
    texts=st.lists(st.binary(), min_size=3, max_size=3),
    tables=st.lists(st.text("a|-` "), min_size=2, max_size=2),
)
def test_a_place_is_replaced_and_nothing_else(texts: list[bytes], tables: list[str]) -> None:
    """Whatever else is in the file, other line ends and encodings included."""
    marks = [
        (f"<!-- python -m benchmarks --only {group} -->", f"<!-- end of {group} -->")
        for group in ("views", "cold")
    ]

    def file(contents: list[str]) -> bytes:
        places = [
            f"{first}{content}{last}".encode()
            for (first, last), content in zip(marks, contents, strict=True)
        ]
        return texts[0] + places[0] + texts[1] + places[1] + texts[2]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.md"
        path.write_bytes(file(["old", ""]))
        require_places(path, ["views", "cold"])
        for _ in range(2):
            put(path, "views", ["header"], [tables[0]])
            put(path, "cold", [], [tables[1]])
        headers = ("header\n", "")
        wanted = [f"\n```\n{h}```\n\n{t}\n" for h, t in zip(headers, tables, strict=True)]
        assert path.read_bytes() == file(wanted)


def test_cells_with_bars_stay_cells() -> None:
    row = Row(what="a | b", measured=spread([1.0]), detail="c|d")
    assert list(markdown([row, Skipped(what="e", why="f")]))[2:] == [
        r"| a \| b | 1 |  |  |  |  | 1 | c\|d |",
        "| e |  |  |  |  | skipped: f |  |  |",
    ]


def test_pages_are_forgotten_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    try:
        forget_pages([path])
    except StillCached as error:
        pytest.skip(str(error))
    with open(path, "rb") as file:
        assert cached_pages(file.fileno(), 1_000_000) == 0
        file.read()
        assert cached_pages(file.fileno(), 1_000_000) == -(-1_000_000 // mmap.PAGESIZE)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
def test_pages_that_stay_are_noticed() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(100_000))
        file.flush()
        with pytest.raises(StillCached, match="page cache"):
            forget_pages([Path(file.name)])


def test_help_documents_every_option() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    options = [p for p in main.params if isinstance(p, click.Option)]
    assert {p.name for p in options} == {
        "quick",
        "only",
        "repeats",
        "threads",
        "data_dir",
        "results",
    }
    for option in options:
        assert option.help
        assert option.opts[0] in output
