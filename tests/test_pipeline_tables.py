"""Means, standard errors and tables of the pipelines."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables import markdown_table, mean_and_error

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


@given(VALUES)
def test_mean_and_error_agree_with_the_standard_library(values: list[float]) -> None:
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-9)
    expected = statistics.stdev(values) / len(values) ** 0.5
    assert error == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_one_run_has_no_error_and_none_has_no_mean() -> None:
    assert mean_and_error([70.5]) == (70.5, None)
    with pytest.raises(ValueError, match="at least one number"):
        mean_and_error([])


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4))
def test_a_table_is_as_many_aligned_lines_of_as_many_cells(rows: list[tuple[str, str]]) -> None:
    lines = markdown_table(["what", "n"], rows).split("\n")
    assert len(lines) == 2 + len(rows)
    assert len(set(map(len, lines))) == 1
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_a_table_reads_as_text_and_refuses_a_short_row() -> None:
    assert markdown_table(["arm", "top-1"], [["average", "9.1"]]) == (
        "| arm     | top-1 |\n| ------- | ----: |\n| average |   9.1 |"
    )
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["arm", "top-1"], [["average"]])
