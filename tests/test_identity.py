"""A store and what it is used with: every difference is found, with both sides and what to do next.

One table for precompute onto a store, one for a loader, one for training; and what may differ.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.datasets import ImageDataset, Preprocessing, open_dataset
from kdcache.datasets.image_dataset import array_dataset
from kdcache.errors import (
    KdcacheError,
    MissingTargets,
    ReplayMismatch,
    StoreError,
    StoreMismatch,
    UsageError,
)
from kdcache.mentors import Mentor, load_mentor
from kdcache.models import build_network
from kdcache.store import TargetStore, open_store
from kdcache.store.manifest import fingerprint
from kdcache.store.sealed import BLANK, seal
from kdcache.views import CropFlip
from kdcache.views.recipe import Pixels

SAMPLES = 100
NEXT_STEPS = {
    "dataset": "precompute a store for this one",
    "views": "another --store",
    "mentor": "--checkpoint, --precision, --batch-size, --encoder",
}


class Desk:
    """A store of 100 digits and one mentor, with everything it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "S"
        self.dataset = open_dataset("digits", samples=SAMPLES)
        self.checkpoint = folder / "r8.safetensors"
        save_weights(self.checkpoint, build_network("r8", 10, seed=0), {})
        self.mentor = load_mentor("r8", self.dataset, self.checkpoint)
        self.precompute(views=2)

    @property
    def store(self) -> TargetStore:
        return open_store(self.root)

    def precompute(
        self, dataset: ImageDataset | None = None, mentor: Mentor | None = None, **options: Any
    ) -> TargetStore:
        given = {"store": self.root, "device": "cpu", **options}
        return kdcache.precompute_targets(dataset or self.dataset, [mentor or self.mentor], **given)

    def load(self, dataset: ImageDataset | None = None) -> None:
        next(iter(kdcache.ReplayLoader(dataset or self.dataset, self.root, 16, device="cpu")))

    def train(self, **options: Any) -> None:
        given = {"student": "r8", "epochs": 1, "batch_size": 50, "device": "cpu", **options}
        given = {"store": str(self.root), "out": str(self.folder / "run"), **given}
        list(kdcache.train_student(**given))

    def other_checkpoint(self) -> Path:
        path = self.folder / "other.safetensors"
        save_weights(path, build_network("r8", 10, seed=1), {})
        return path

    def normalised_otherwise(self) -> Path:
        """The same weights beside a sidecar with another preprocessing."""
        path = self.folder / "elsewhere" / "r8.safetensors"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(self.checkpoint, path)
        stated = {"preprocessing": {"mean": [0.25] * 3, "std": [0.5] * 3}}
        path.with_suffix(".json").write_text(json.dumps(stated))
        return path

    def altered(self, document: str = "zarr.json", **changes: Any) -> "Desk":
        """The same with a store one of whose documents says something else, soundly sealed."""
        desk = Desk.__new__(Desk)
        desk.__dict__ |= {**self.__dict__, "root": self.folder / "altered"}
        shutil.rmtree(desk.root, ignore_errors=True)
        shutil.copytree(self.root, desk.root)
        content = json.loads((desk.root / document).read_text())
        content["attributes"]["kdcache"] |= {**changes, "seal": BLANK}
        (desk.root / document).write_bytes(seal(content))
        return desk


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(shared_desk: Desk) -> Iterable[Desk]:
    """The shared one; what is refused leaves the store as it was."""
    before = {p: p.read_bytes() for p in shared_desk.root.rglob("*") if p.is_file()}
    yield shared_desk
    assert {p: p.read_bytes() for p in shared_desk.root.rglob("*") if p.is_file()} == before


def digits_like(**changes: Any) -> ImageDataset:
    """The 100 digits with something changed; arrays are of the whole training split."""
    whole = open_dataset("digits")
    given: dict[str, Any] = {
        "name": "digits",
        "split": "train",
        "images_NCHW": whole.images(whole.index_N),
        "labels_N": whole.labels(whole.index_N),
        "num_classes": 10,
        "preprocessing": whole.preprocessing,
        "view_parameters": whole.view_parameters,
        "index_N": open_dataset("digits", samples=SAMPLES).index_N,
    }
    return array_dataset(**{**given, **{k: v(given[k]) for k, v in changes.items()}})


def one_up(values: NDArray[Any]) -> NDArray[Any]:
    """The first sample's values changed; it is one of the 100."""
    changed = values.copy()
    changed[0] = (changed[0] + 1) % 10
    return changed


def padded(images_NCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(images_NCHW, ((0, 0), (0, 0), (1, 1), (1, 1)))


DATASETS: dict[str, tuple[Callable[[], ImageDataset], tuple[str, ...]]] = {
    "name": (lambda: digits_like(name=lambda _: "digits2"), ("name",)),
    "split": (lambda: digits_like(split=lambda _: "test"), ("split",)),
    "the test split": (
        lambda: open_dataset("digits", "test", samples=SAMPLES),
        ("split", "index_sha256", "labels_sha256", "pixels_sha256"),
    ),
    "fewer samples": (
        lambda: open_dataset("digits", samples=90),
        ("num_samples", "index_sha256"),
    ),
    "other samples": (
        lambda: digits_like(index_N=lambda index_N: index_N + 1),
        ("index_sha256", "labels_sha256", "pixels_sha256"),
    ),
    "labels": (lambda: digits_like(labels_N=one_up), ("labels_sha256",)),
    "pixels": (lambda: digits_like(images_NCHW=one_up), ("pixels_sha256",)),
    "image shape": (lambda: digits_like(images_NCHW=padded), ("image_shape", "pixels_sha256")),
    "classes": (lambda: digits_like(num_classes=lambda _: 11), ("num_classes",)),
}
OF_CONTENT = ("labels", "pixels", "image shape", "classes", "the test split")


def require_told(error: KdcacheError, *parts: object, exit_code: int = 2) -> None:
    assert error.exit_code == exit_code
    for part in parts:
        assert str(part) in str(error), error


def rows(error: KdcacheError) -> dict[str, list[str]]:
    """The table in a message: field -> what follows it."""
    lines = [line.split() for line in str(error).splitlines() if line.startswith("  ")]
    return {line[0]: line[1:] for line in lines}


# Precompute onto a store


@pytest.mark.parametrize("what", DATASETS)
def test_precompute_tells_another_dataset(desk: Desk, what: str) -> None:
    make, fields = DATASETS[what]
    dataset = make()
    stored, here = desk.store.manifest.dataset, dataset.identity()
    with pytest.raises(StoreMismatch) as caught:
        desk.precompute(dataset)
    require_told(caught.value, desk.root, NEXT_STEPS["views"])
    for field in fields:
        assert stored[field] != here[field]
        both = [*str(stored[field]).split(), *str(here[field]).split()]
        assert rows(caught.value)[field] == both


@dataclass(frozen=True, kw_only=True)
class CropFlip2(CropFlip):
    version: ClassVar[int] = 2


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "recipe": ({"recipe": "none"}, "recipe name crop-flip none"),
    "parameter": ({"recipe": CropFlip(size=8, padding=2, flip=False)}, "recipe padding 1 2"),
    "flip": ({"recipe": CropFlip(size=8, padding=1)}, "recipe flip False True"),
    "version": ({"recipe": CropFlip2(size=8, padding=1, flip=False)}, "recipe version 1 2"),
    "seed": ({"view_seed": 5}, "view_seed 0 5"),
}


@pytest.mark.parametrize("what", RECIPES)
def test_precompute_tells_other_views(desk: Desk, what: str) -> None:
    options, row = RECIPES[what]
    with pytest.raises(StoreMismatch) as caught:
        desk.precompute(**options)
    require_told(caught.value, desk.root, "this command", NEXT_STEPS["views"])
    assert row in " ".join(str(caught.value).split())


def other_mentor(desk: Desk, what: str) -> dict[str, Any]:
    """What to call `Desk.precompute` with."""
    if what == "checkpoint":
        return {"mentor": load_mentor("r8", desk.dataset, desk.other_checkpoint())}
    if what == "preprocessing":
        return {"mentor": load_mentor("r8", desk.dataset, desk.normalised_otherwise())}
    if what == "architecture":
        return {"mentor": replace(desk.mentor, architecture="resnet8x4")}
    options: dict[str, dict[str, Any]] = {
        "precision": {"precision": "bf16"},
        "batch": {"batch_size": 128},
        "encoder": {"encoder": "sqrt8"},
    }
    return options[what]


@pytest.mark.parametrize(
    ("what", "field", "both"),
    [
        ("checkpoint", "checkpoint_sha256", ()),
        ("preprocessing", "preprocessing", ("[0.3053,", "[0.25,")),
        ("architecture", "architecture", ("resnet8", "resnet8x4")),
        ("precision", "run_shape", ("'fp32'", "'bf16'")),
        ("batch", "run_shape", ("256", "128")),
        ("encoder", "encoder", ("float16", "sqrt8")),
    ],
)
def test_precompute_tells_a_mentor_made_otherwise(
    desk: Desk, what: str, field: str, both: tuple[str, ...]
) -> None:
    given = other_mentor(desk, what)
    if what == "checkpoint":
        both = (desk.mentor.checkpoint_sha256, given["mentor"].checkpoint_sha256)
    with pytest.raises(StoreMismatch) as caught:
        desk.precompute(**given)
    require_told(caught.value, "mentor 'r8' differs", desk.root, *both, NEXT_STEPS["mentor"])
    assert list(rows(caught.value))[1:] == [field]


def test_mentors_stored_in_different_run_shapes_do_not_run_together(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    checkpoint = tmp_path / "r14.safetensors"
    save_weights(checkpoint, build_network("r14", 10, seed=0), {})
    r14 = load_mentor("r14", desk.dataset, checkpoint)
    desk.precompute(mentor=r14, views=2, batch_size=64)
    with pytest.raises(StoreMismatch) as caught:
        kdcache.precompute_targets(desk.dataset, [desk.mentor, r14], store=desk.root)
    require_told(caught.value, "'batch': 64", "'batch': 256", NEXT_STEPS["mentor"])
    checkpoints = {"r8": str(desk.checkpoint), "r14": str(checkpoint)}
    with pytest.raises(UsageError) as refused:
        desk.train(targets="online", checkpoints=checkpoints, mentors=("r8", "r14"))
    require_told(refused.value, "'batch': 64", "'batch': 256", "--mentors")


# What every use of a store tells


USES: dict[str, Callable[[Desk], object]] = {
    "precompute": Desk.precompute,
    "load": Desk.load,
    "train": Desk.train,
}
of_every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@of_every_use
def test_a_newer_format_is_told_by_number(desk: Desk, use: Callable[[Desk], object]) -> None:
    with pytest.raises(StoreError) as caught:
        use(desk.altered(format=2, unheard_of=True))
    writer = desk.store.manifest.written_by["kdcache"]
    told = ("store format 2", "reads format 1", f"the version that wrote it (kdcache {writer})")
    require_told(caught.value, *told)


@of_every_use
def test_a_recipe_of_another_version_is_told(desk: Desk, use: Callable[[Desk], object]) -> None:
    manifest = desk.store.manifest
    recipe = {**manifest.recipe, "version": 2}
    named = fingerprint(manifest.dataset, recipe, manifest.view_seed)
    with pytest.raises(StoreError) as caught:
        use(desk.altered(recipe=recipe, fingerprint=named))
    require_told(caught.value, "'version': 2", "crop-flip version 1", "`kdcache inspect` names")


@of_every_use
@pytest.mark.parametrize(
    "change", [{"name": "sqrt8x"}, {"arithmetic": "target = stored / 2"}], ids=["name", "meaning"]
)
def test_an_unknown_encoder_is_told(
    desk: Desk, use: Callable[[Desk], object], change: dict[str, Any]
) -> None:
    encoder = {**desk.store.mentor("r8").encoder.describe(), **change}
    with pytest.raises(StoreError) as caught:
        use(desk.altered("mentors/r8/logits/zarr.json", encoder=encoder))
    known = "coarse, float16, float32, residual, sqrt8, sqrt8-zstd"
    told = (*change.values(), f"cannot decode (it knows {known})")
    require_told(caught.value, *told, "use the version that wrote it")


@of_every_use
def test_a_mentor_of_other_views_is_told(desk: Desk, use: Callable[[Desk], object]) -> None:
    with pytest.raises(StoreError) as caught:
        use(desk.altered("mentors/r8/zarr.json", fingerprint="0" * 64))
    told = ("0" * 64, desk.store.fingerprint, "Else move that folder out of the store")
    require_told(caught.value, *told)


@of_every_use
def test_views_that_drifted_are_told_with_the_versions_of_both_sides(
    desk: Desk, use: Callable[[Desk], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = CropFlip.__call__

    def drifted(self: CropFlip, images: Pixels, index: NDArray[np.int64], view: int) -> Pixels:
        pixels = replay(self, images, index, view)
        pixels[:, 0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(CropFlip, "__call__", drifted)
    running = {"torch": "99.1", "torchvision": "98.2"}
    for module in ("kdcache.wanted", "kdcache.store.replay_proof"):
        monkeypatch.setattr(f"{module}.library_versions", lambda: running)
    proven = desk.store.manifest.replay_proof[0]["sha256"][:16]
    with pytest.raises(ReplayMismatch) as caught:
        use(desk)
    written_by = {key: desk.store.manifest.written_by[key] for key in ("torch", "torchvision")}
    versions = [f"'{key}': '{v}'" for side in (written_by, running) for key, v in side.items()]
    told = (*versions, f"{proven}... in the store", "Use the versions that wrote the store")
    require_told(caught.value, *told, exit_code=1)


# A loader


@pytest.mark.parametrize("what", OF_CONTENT)
def test_a_loader_tells_another_dataset(desk: Desk, what: str) -> None:
    dataset = DATASETS[what][0]()
    stored, here = desk.store.manifest.dataset, dataset.subset(desk.store.index_N).identity()
    with pytest.raises(StoreMismatch) as caught:
        desk.load(dataset)
    require_told(caught.value, desk.root, NEXT_STEPS["dataset"])
    told = [field for field in DATASETS[what][1] if field != "index_sha256"]
    for field in told:
        assert stored[field] != here[field]
        both = [*str(stored[field]).split(), *str(here[field]).split()]
        assert rows(caught.value)[field] == both


def test_a_loader_tells_a_dataset_that_lacks_samples(desk: Desk) -> None:
    first_50 = slice(0, 50)
    small = digits_like(
        images_NCHW=lambda images: images[first_50],
        labels_N=lambda labels: labels[first_50],
        index_N=lambda _: None,
    )
    with pytest.raises(StoreMismatch) as caught:
        desk.load(small)
    told = ("100 samples of digits (train)", "has the samples 0 to 49", NEXT_STEPS["dataset"])
    require_told(caught.value, *told)


def test_a_loader_tells_samples_that_the_store_lacks(desk: Desk) -> None:
    with pytest.raises(MissingTargets) as caught:
        desk.load(open_dataset("digits", samples=300))
    told = ("no targets for 200 of the samples", "it holds 100 samples", "--samples")
    require_told(caught.value, *told)


@pytest.mark.parametrize("what", ["name", "split", "fewer samples"])
def test_a_loader_takes_the_same_content_under_another_name_and_parts_of_it(
    desk: Desk, what: str
) -> None:
    desk.load(DATASETS[what][0]())


# Training


def digits_again(split: str) -> Any:
    """The digits as a dataset of another name: `tests.test_identity:digits_again`."""
    whole = open_dataset("digits", split)
    images_NHWC = whole.images(whole.index_N).transpose(0, 2, 3, 1)
    return list(zip(images_NHWC, whole.labels(whole.index_N).tolist(), strict=True))


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (
            {"dataset": "tests.test_identity:digits_again"},
            "dataset digits tests.test_identity:digits_again",
        ),
        ({"recipe": "none"}, "recipe crop-flip none"),
        ({"view_seed": 7}, "view_seed 0 7"),
    ],
    ids=["dataset", "recipe", "seed"],
)
def test_training_tells_options_that_the_store_decides(
    desk: Desk, options: dict[str, Any], row: str
) -> None:
    with pytest.raises(StoreMismatch) as caught:
        desk.train(**options)
    require_told(caught.value, desk.root, "this command", "name another --store")
    assert row in " ".join(str(caught.value).split())


def test_training_tells_a_store_of_the_test_split(desk: Desk, tmp_path: Path) -> None:
    held_out = open_dataset("digits", "test", samples=SAMPLES)
    desk.precompute(held_out, store=tmp_path / "T", views=1)
    with pytest.raises(StoreMismatch) as caught:
        desk.train(store=str(tmp_path / "T"))
    require_told(caught.value, "another --store")
    assert rows(caught.value)["split"] == ["test", "train"]


def test_training_tells_what_it_asks_for_and_the_store_lacks(desk: Desk) -> None:
    for options, parts in (
        ({"samples": 300}, ("no targets for 200 of", "it holds 100 samples", "--samples")),
        ({"views": 3}, ("asked for are 0 to 2", "are 0, 1", "`kdcache precompute --views`")),
        ({"mentors": ("r14",)}, ("no mentor 'r14'", "it has r8", "kdcache precompute")),
    ):
        with pytest.raises(MissingTargets) as caught:
            desk.train(**options)
        require_told(caught.value, *parts)


@pytest.mark.parametrize("what", ["labels", "pixels", "image shape", "classes"])
def test_training_tells_data_that_changed(
    desk: Desk, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = DATASETS[what][0]().subset(np.arange(1438))
    monkeypatch.setattr("kdcache.train.shared.open_dataset", lambda *_, **__: changed)
    with pytest.raises(StoreMismatch) as caught:
        desk.train()
    stored, here = (d.identity() for d in (desk.dataset, changed.subset(desk.dataset.index_N)))
    field = DATASETS[what][1][0]
    require_told(caught.value, stored[field], here[field], NEXT_STEPS["dataset"])


@pytest.mark.parametrize("what", ["checkpoint", "preprocessing"])
def test_live_mentors_that_are_not_the_stores_are_told(desk: Desk, what: str) -> None:
    checkpoint = {
        "checkpoint": desk.other_checkpoint,
        "preprocessing": desk.normalised_otherwise,
    }[what]()
    here = load_mentor("r8", desk.dataset, checkpoint).identity()
    stored = desk.mentor.identity()
    field = {"checkpoint": "checkpoint_sha256", "preprocessing": "preprocessing"}[what]
    with pytest.raises(StoreMismatch) as caught:
        desk.train(targets="online", checkpoints={"r8": str(checkpoint)})
    require_told(caught.value, stored[field], here[field], "--checkpoint r8=FILE")


# Class order


def nearest_mean(num_classes: int) -> torch.nn.Module:
    """A digits classifier by class means; `tests.test_identity:nearest_mean` as a mentor."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, num_classes))


def fitted(preprocessing: Preprocessing) -> torch.nn.Module:
    """|x - mean|^2 up to what all classes share, from the training images."""
    dataset, network = open_dataset("digits"), nearest_mean(10)
    inputs = preprocessing(torch.from_numpy(dataset.images(dataset.index_N))).flatten(1)
    labels = torch.from_numpy(dataset.labels(dataset.index_N))
    means = torch.stack([inputs[labels == label].mean(0) for label in range(10)])
    with torch.no_grad():
        network.get_parameter("1.weight").copy_(means / 10)
        network.get_parameter("1.bias").copy_(-means.square().sum(1) / 20)
    return network


@pytest.mark.parametrize("permuted", [False, True])
def test_permuted_classes_are_warned_of(tmp_path: Path, permuted: bool) -> None:
    network = fitted(open_dataset("digits").preprocessing)
    if permuted:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.roll(1, 0))
    name = "tests.test_identity:nearest_mean"
    checkpoint = tmp_path / "means.safetensors"
    save_weights(checkpoint, network, {})
    store = tmp_path / "S"
    command = ["precompute", "--mentors", name, "--dataset", "digits", "--views", "1", "--store",
               str(store), "--checkpoint", f"{name}={checkpoint}"]  # fmt: skip
    warned = [
        ran.output
        for ran in (CliRunner().invoke(main, c) for c in (command, ["inspect", str(store)]))
        if ran.exit_code == 0
    ]
    assert len(warned) == 2
    (accuracy,) = (m["accuracy"] for m in kdcache.inspect_store(open_store(store))["mentors"])
    assert (accuracy < 20) == permuted
    told = f"is right on {accuracy:.2f}% of its cached views, near chance (10.00%)"
    for output in warned:
        assert (told in output) == permuted
        assert (f"Give the right one with --checkpoint {name}=FILE" in output) == permuted
    assert len(kdcache.inspect_store(open_store(store))["warnings"]) == permuted
