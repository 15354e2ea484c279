"""Golden stores: what a released format's stores say today, they say for ever."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kdcache
from kdcache.mentors import load_mentor
from kdcache.store import FORMAT, verify_store
from kdcache.verification import verify
from tests.golden.make_golden import ENCODER_OF, FOLDER, checksums, decoded
from tests.plain_reader import PlainStore

STORES = sorted(path for path in FOLDER.glob("format-*") if path.is_dir())

of_every_format = pytest.mark.parametrize("golden", STORES, ids=lambda path: path.name)


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
    }


def test_every_format_up_to_todays_has_one() -> None:
    assert [path.name for path in STORES] == [f"format-{n}" for n in range(1, FORMAT + 1)]


@of_every_format
def test_no_byte_of_it_changed(golden: Path) -> None:
    assert checksums(FOLDER, golden.name) == (FOLDER / f"{golden.name}.sha256").read_text()
    assert sum(path.stat().st_size for path in golden.rglob("*")) < 400_000


@of_every_format
def test_it_decodes_to_the_same_bits(golden: Path) -> None:
    with np.load(FOLDER / f"{golden.name}.npz", allow_pickle=False) as expected:
        found = decoded(golden)
        assert set(found) == set(expected.files)
        for key in found:
            assert found[key].tobytes() == expected[key].tobytes(), key


@of_every_format
def test_it_is_sound_and_reading_it_writes_nothing(golden: Path) -> None:
    before = state(golden)
    verification = verify(golden)
    assert verification.ok, verification.damaged
    assert verification.chunks == 4 * 2 * 3
    assert verification.replayed == 16
    dataset = kdcache.open_dataset("digits")
    loader = kdcache.ReplayLoader(dataset, str(golden), batch_size=5, device="cpu")
    with np.load(FOLDER / f"{golden.name}.npz", allow_pickle=False) as expected:
        for batch in loader:
            rows = loader.dataset.index_N.searchsorted(batch.index.numpy())
            for column, name in enumerate(loader.source.mentors):
                assert batch.logits is not None
                same = expected[f"{name}/0"][rows] == batch.logits[:, column].numpy()
                assert same.all()
    assert kdcache.inspect_store(kdcache.open_store(golden))["complete"]
    assert state(golden) == before


@of_every_format
def test_it_goes_on_growing(
    golden: Path, tmp_path: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    root = tmp_path / "S"
    shutil.copytree(golden, root)
    dataset = kdcache.open_dataset("digits", samples=20)
    mentor = load_mentor("r44", dataset, digits_checkpoint("r44"))
    store = kdcache.precompute_targets(dataset, [mentor], store=root)
    assert store.mentors == sorted([*ENCODER_OF, "r44"])
    assert store.mentor("r44").complete_views(3) == [0, 1]
    assert verify_store(root).ok
    for path in golden.rglob("*"):
        if path.is_file():
            assert (root / path.relative_to(golden)).read_bytes() == path.read_bytes()


def test_the_store_of_format_1_has_every_encoder_and_is_read_by_the_plain_reader() -> None:
    plain = PlainStore(FOLDER / "format-1")
    assert {name: m.encoder["name"] for name, m in plain.mentors.items()} == ENCODER_OF
    assert (plain.block, plain.num_blocks, plain.num_samples) == (7, 3, 20)
    with np.load(FOLDER / "format-1.npz", allow_pickle=False) as expected:
        for name, mentor in plain.mentors.items():
            for view in (0, 1):
                assert mentor.targets(view).tobytes() == expected[f"{name}/{view}"].tobytes()
    pixels_NCHW = kdcache.open_dataset("digits").images(plain.index_N)
    assert plain.proves(dict(zip(plain.index_N.tolist(), pixels_NCHW, strict=True)))


def test_its_script_does_not_replace_it() -> None:
    before = state(FOLDER / f"format-{FORMAT}")
    command = [sys.executable, "-m", "tests.golden.make_golden"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent.parent)
    assert done.returncode == 1
    assert "--force replaces it" in done.stderr
    assert state(FOLDER / f"format-{FORMAT}") == before
