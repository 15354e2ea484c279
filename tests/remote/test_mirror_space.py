"""The mirrors' disk: never above the bound, and what goes is what was not used for longest."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.remote import MirrorSpace


def chunk_path(home: Path, number: int) -> Path:
    return home / f"mirror{number % 2}" / "mentors" / "m" / "logits" / "c" / str(number) / "0" / "0"


@settings(deadline=None, max_examples=60)
@given(
    most=st.integers(0, 60),
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 20), st.sets(st.integers(0, 9), max_size=3)),
        max_size=25,
    ),
)
def test_chunks_stay_within_the_bound_and_the_kept_stay(
    most: int, steps: list[tuple[int, int, set[int]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        space = MirrorSpace(home, most)
        for clock, (number, size, kept) in enumerate(steps):
            path = chunk_path(home, number)
            if path.exists():
                os.utime(path, (clock, clock))
                continue
            keep = {chunk_path(home, one) for one in kept}
            there = {one for one in keep if one.exists()}
            roomy = space.reserve(size, keep, [])
            assert all(one.exists() for one in there)
            if roomy:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(size))
                os.utime(path, (clock, clock))
            space.settle(size, kept=roomy)
            total = sum(one.stat().st_size for one in home.rglob("0/0") if one.is_file())
            assert total <= most
            # There is room whenever what must stay leaves any.
            assert roomy or size + sum(one.stat().st_size for one in there) > most


def test_the_least_recently_used_go_first_then_those_needed_last(tmp_path: Path) -> None:
    paths = [chunk_path(tmp_path, number) for number in range(5)]
    for clock, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(10))
        os.utime(path, (clock, clock))
    space = MirrorSpace(tmp_path, 50)
    space.use(paths[0])
    assert space.reserve(10, keep=(), last=[paths[1], paths[2]])
    assert [path.exists() for path in paths] == [True, True, True, False, False]  # nine tenths
    space.settle(10, kept=False)
    assert space.reserve(45, keep=[paths[0]], last=[paths[1], paths[2]]) is False
    assert [path.exists() for path in paths] == [True, False, False, False, False]


def test_what_killed_processes_left_goes_and_documents_stay(tmp_path: Path) -> None:
    chunk = chunk_path(tmp_path, 0)
    chunk.parent.mkdir(parents=True)
    old, new = chunk.with_name(".0.abc.tmp"), chunk.with_name(".0.def.tmp")
    document = tmp_path / "mirror0" / "mentors" / "m" / "zarr.json"
    for path in (old, new, document):
        path.write_bytes(bytes(100))
    os.utime(old, (0, 0))
    MirrorSpace(tmp_path, 10).reserve(5, (), ())
    assert [path.exists() for path in (old, new, document)] == [False, True, True]
