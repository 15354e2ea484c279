"""Healing by `precompute`: what is damaged is made again as it was, and nothing else is touched."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS
from kdcache.errors import DamagedTargets, StoreError, StoreMismatch
from kdcache.mentors import Mentor
from kdcache.precompute import PrecomputeJob, PrecomputeResult
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.verification import verify
from tests.damaging import cut, flip, lose

VIEWS = 2


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def heal(
    root: Path, digits: ImageDataset, mentors: list[Mentor], **options: object
) -> PrecomputeResult:
    return PrecomputeJob(digits, mentors, store=root, **options).run()  # type: ignore[arg-type]


def values(store: TargetStore) -> np.ndarray:
    return np.stack([store.targets(view, store.index_N) for view in range(VIEWS)])


DOCUMENTS = ["zarr.json", "index/c/0", "labels/zarr.json", "mentors/zarr.json"]
DOCUMENTS += ["mentors/r8/zarr.json", "mentors/r8/logits/zarr.json"]


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("damage", [lose, cut, flip])
def test_every_document_is_made_anew_and_no_chunk_is(
    root: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    damage: Callable[[Path], None],
    encoder: str,
) -> None:
    made = kdcache.precompute_targets(
        digits, digits_mentors, store=root, views=VIEWS, encoder=encoder, batch_size=64
    )
    before = values(made)
    for document in DOCUMENTS:
        content = (root / document).read_bytes()
        damage(root / document)
        assert not verify_store(root).ok
        # The store's options are not repeated: they are found again, but for the run shape.
        healed = heal(root, digits, digits_mentors, batch_size=64)
        assert healed.num_pixels == 0
        assert [path for path in healed.healed if str(root / document).startswith(str(path))]
        assert verify_store(root).ok
        assert (root / document).read_bytes() == content
    assert np.array_equal(values(healed.store), before)


@pytest.mark.parametrize("lost", ["zarr.json", "logits/zarr.json"])
def test_healing_never_replaces_another_mentors_targets(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor], lost: str
) -> None:
    """The damaged document alone knew the run shape; a command with another one must not win."""
    kdcache.precompute_targets(
        digits, digits_mentors[:1], store=root, views=VIEWS, encoder="sqrt8", batch_size=64
    )
    name = digits_mentors[0].name
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (root / "mentors" / name / "zarr.json").unlink()
    (root / "mentors" / name / lost).unlink(missing_ok=True)
    with pytest.raises(StoreMismatch, match=r"8 commit records are not of what .*--batch-size"):
        heal(root, digits, digits_mentors[:1], encoder="sqrt8", batch_size=128)
    if lost == "logits/zarr.json":  # else the array still says how it is encoded
        with pytest.raises(StoreMismatch, match=r"encoder +sqrt8 +float16\n.*--encoder"):
            heal(root, digits, digits_mentors[:1], batch_size=64)
    for path, content in before.items():
        assert not path.exists() or path.read_bytes() == content
    healed = heal(root, digits, digits_mentors[:1], encoder="sqrt8", batch_size=64)
    assert healed.num_pixels == 0
    assert {path: path.read_bytes() for path in before} == before


def test_the_printed_command_names_how_each_mentor_was_made(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    """Mentors of one store may be made in different ways; one command each way heals them."""
    ways = ({"encoder": "sqrt8", "batch_size": 64}, {"encoder": "float32", "batch_size": 128})
    for mentor, way in zip(digits_mentors, ways, strict=True):
        heal(root, digits, [mentor], views=VIEWS, **way)
    before = values(open_store(root))
    for mentor in digits_mentors:
        flip(open_store(root).mentor(mentor.name).array.chunk(1, 1))
    commands = verify(root, dataset="digits").healing
    assert commands is not None
    assert [shlex.split(command)[-4:] for command in commands.split(" && ")] == [
        ["--precision", "fp32", "--batch-size", str(way["batch_size"])] for way in ways
    ]
    for mentor in digits_mentors:  # nothing but the mentor is said: the store knows the rest
        assert heal(root, digits, [mentor]).num_pixels == 25
    assert verify(root).ok
    assert np.array_equal(values(open_store(root)), before)


def test_an_old_array_document_is_noticed_and_healed(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    mentors = digits_mentors[:1]
    array = kdcache.precompute_targets(digits, mentors, store=root, views=1).mentor("r14").array
    old = array.metadata.read_bytes()
    kdcache.precompute_targets(digits, mentors, store=root, views=VIEWS)
    array.metadata.write_bytes(old)
    (damage,) = verify_store(root).damaged
    assert "declares 1 views, view 1 is committed" in damage.reason
    healed = heal(root, digits, mentors)
    assert (healed.num_pixels, healed.store.num_views) == (0, VIEWS)
    assert verify_store(root).ok


def test_a_mentor_whose_commits_and_document_are_gone_is_missed(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    array = kdcache.precompute_targets(digits, digits_mentors, store=root, views=1).mentor("r14")
    shutil.rmtree(array.array.commits)
    (array.array.group / "zarr.json").unlink()
    assert not verify_store(root).ok
    with pytest.raises(DamagedTargets):
        kdcache.TargetStream(root)
    heal(root, digits, digits_mentors)
    assert verify_store(root).ok


def test_a_record_that_no_chunk_can_need_is_removed(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    made = kdcache.precompute_targets(digits, digits_mentors, store=root, views=1)
    stray = made.mentor("r8").array.commits / "000099.000000.deadbeef.json"
    stray.write_text("{}")
    assert not verify_store(root).ok
    heal(root, digits, digits_mentors)
    assert verify_store(root).ok
    assert not stray.exists()


def test_an_empty_folder_in_a_chunks_place_makes_way(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    made = kdcache.precompute_targets(digits, digits_mentors, store=root, views=1)
    chunk = made.mentor("r8").array.chunk(0, 1)
    chunk.unlink()
    chunk.mkdir()
    heal(root, digits, digits_mentors)
    assert verify_store(root).ok
    chunk.unlink()
    (chunk / "precious").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"is a folder that is not empty.*remove it"):
        heal(root, digits, digits_mentors)


def test_exactly_what_is_damaged_is_computed_again(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    made = kdcache.precompute_targets(digits, digits_mentors, store=root, views=VIEWS)
    before = values(made)
    array = made.mentor("r8").array
    flip(array.chunk(0, 1))
    lose(array.chunk(0, 2))
    flip(array.commits / made.mentor("r8").commits[1, 0].file_name)
    lose(made.mentor("r14").array.commits / made.mentor("r14").commits[1, 0].file_name)
    shutil.rmtree(array.chunk(1, 3).parent)
    job = PrecomputeJob(digits, digits_mentors, store=root)
    assert job.plan.new == {"r14": 1, "r8": 4}
    assert job.plan.reused == {"r14": 7, "r8": 4}
    healed = job.run()
    assert verify_store(root).ok
    assert np.array_equal(values(healed.store), before)
    assert not PrecomputeJob(digits, digits_mentors, store=root).plan.units
