"""The benchmarks' readers: each gives what the store's slow path gives, or is not timed."""

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import SidesDiffer
from benchmarks.readers import LIBRARIES, comparing
from benchmarks.readers.comparing import READERS
from benchmarks.readers.reader import Given, Opened, Reader
from benchmarks.streamed import forget_checks, streamed_epochs
from benchmarks.table import Row, Skipped
from kdcache.errors import DamagedTargets
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

SAMPLES = 300


def can_import(libraries: Sequence[str]) -> bool:
    """Whether all of these are installed."""
    try:
        for name in libraries:
            importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.fixture
def store(tmp_path: Path) -> TargetStore:
    return synthetic.make_store(
        tmp_path / "store", SAMPLES, mentors=3, views=3, blocks=2, same_chunks=False
    )


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_gives_what_the_store_says(
    reader: Reader, store: TargetStore, tmp_path: Path
) -> None:
    if not can_import(reader.libraries):
        pytest.skip(f"needs {' '.join(reader.libraries)}")
    folder = tmp_path / "reader"
    folder.mkdir()
    logits_NMC = store.targets(1, store.index_N).astype(np.float16)
    with reader.open(Given(folder=folder, store=store, view=1, logits_NMC=logits_NMC)) as opened:
        for size in (1, 7, 128, SAMPLES):
            index_B = np.random.default_rng(size).permutation(SAMPLES)[:size]
            rows_BMC = opened.take(index_B)
            if opened.order is not None:
                index_B = opened.order()
                assert len(index_B) == size
            assert rows_BMC.dtype == torch.float32
            assert rows_BMC.is_contiguous()
            expected = store.targets(1, index_B)
            assert np.array_equal(rows_BMC.numpy(), expected)
            rows_BMC += 1  # it is the caller's: what is stored must not change
        again = opened.take(index_B)
        index_B = index_B if opened.order is None else opened.order()
        assert np.array_equal(again.numpy(), store.targets(1, index_B))


def test_a_missing_library_is_one_line_that_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    chosen = [r for r in READERS if r.name in (comparing.OURS, "LMDB", "records and offsets")]
    monkeypatch.setattr(comparing, "READERS", chosen)
    rows = list(comparing.measure(Settings(folder=tmp_path, repeats=1, quick=True)))
    skipped = [row for row in rows if isinstance(row, Skipped)]
    assert [row.what for row in skipped] == ["LMDB / ours"]
    assert "pip install 'kdcache[benchmarks]'" in skipped[0].why
    measured = [row.what for row in rows if isinstance(row, Row)]
    assert "batch of 1,024: records and offsets / ours" in measured
    assert "bytes on disk: records and offsets / ours" in measured


def test_a_reader_that_gives_something_else_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def almost(given: Given) -> Iterator[Opened]:
        rows_NMC = torch.from_numpy(given.logits_NMC).float()
        rows_NMC[:, -1, -1] += 1e-3
        yield Opened(take=lambda index_B: rows_NMC[torch.from_numpy(index_B)])

    monkeypatch.setattr(
        comparing, "READERS", (READERS[0], Reader(name="almost", open=almost, how=""))
    )
    with pytest.raises(SidesDiffer, match="almost"):
        list(comparing.measure(Settings(folder=tmp_path, repeats=1, quick=True)))


def test_every_library_is_in_the_extra() -> None:
    document = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    project = document["project"]
    given = [*project["dependencies"], *project["optional-dependencies"]["benchmarks"]]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in given}
    assert set(LIBRARIES) <= names


def test_epochs_load_and_check_every_view(store: TargetStore) -> None:
    """What a process remembers of files it has checked must not make the benchmark cheaper."""
    batches = [store.index_N[:100], store.index_N[100:200]]
    stream = TargetStream(store, device="cpu")
    side = streamed_epochs(stream, batches, epochs=3)
    assert side() > 0
    chunk = store.mentor(store.mentors[0]).array.chunk(1, 0)
    content = bytearray(chunk.read_bytes())
    content[10] ^= 1
    chunk.write_bytes(content)
    forget_checks(store)
    with pytest.raises(DamagedTargets, match="view 1"):
        side()
    stream.executor().shutdown(wait=True)
