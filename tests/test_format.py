"""docs/format.md is enough: a reader made from it, without kdcache, reads what kdcache writes."""

import ast
import base64
import json
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kdcache
from kdcache import philox
from kdcache.canonical import canonical_json
from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS, FITTED, KINDS, MAP_ENCODERS, Coarse, Residual
from kdcache.encode.levels import Levels
from kdcache.mentors import Mentor
from kdcache.store.sealed import BLANK, seal
from tests import plain_reader
from tests.datasets.pose_files import small_poses
from tests.plain_reader import PlainStore, RefusedError, keypoints_of

PAGE = Path(__file__).parent.parent / "docs" / "format.md"


def images_of(dataset: ImageDataset, store: PlainStore) -> dict[int, Any]:
    pixels_NCHW = dataset.images(store.index_N)
    return dict(zip(store.index_N.tolist(), pixels_NCHW, strict=True))


@pytest.fixture(params=sorted([*ENCODERS, *FITTED]))
def root(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Two mentors, two views, blocks of 34, 34 and 32 (and 2 of padding) samples."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 34)
    recipe = kdcache.views.CropFlip(size=8, padding=2, seed=2**63 + 5)
    kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "S", views=2, recipe=recipe, encoder=request.param
    )
    return tmp_path / "S"


def test_the_reader_imports_nothing_of_kdcache() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(plain_reader.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval", "importlib")
    assert imported - set(sys.stdlib_module_names) == {"numpy", "zarr"}


def test_a_fresh_store_is_read_and_decoded_bit_for_bit(root: Path, digits: ImageDataset) -> None:
    plain, ours = PlainStore(root), kdcache.open_store(root)
    assert sorted(plain.mentors) == sorted(ours.mentors)
    np.testing.assert_array_equal(plain.index_N, digits.index_N)
    np.testing.assert_array_equal(plain.labels_N, digits.labels(digits.index_N))
    for name, mentor in plain.mentors.items():
        assert mentor.complete_views == [0, 1]
        for view in mentor.complete_views:
            decoded = ours.targets(view, ours.index_N, [name])[:, 0]
            assert mentor.targets(view).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("encoder", ["float32", "float16", "sqrt8-zstd"])
def test_every_kind_of_target_is_read_and_decoded_bit_for_bit(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
) -> None:
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 34)
    ours = kdcache.precompute_targets(
        digits,
        digits_mentors,
        store=tmp_path / "S",
        views=2,
        encoder=encoder,
        features=True,
        keep_logsumexp=True,
    )
    plain = PlainStore(tmp_path / "S")
    assert sorted(plain.others) == [
        (name, kind) for name in ("r14", "r8") for kind in ("features", "logsumexp")
    ]
    for (name, kind), targets in plain.others.items():
        assert targets.complete_views == [0, 1]
        exact = encoder == "float32" or kind == "logsumexp"
        assert targets.encoder["name"] == ("float32" if exact else "float16")
        for view in targets.complete_views:
            rows = targets.targets(view)
            if kind == "features":
                decoded = ours.targets(view, ours.index_N, [name], kind="features")[0]
            else:
                decoded = ours.targets(view, ours.index_N, [name], kind="logsumexp")[:, 0]
            assert (rows.shape, rows.tobytes()) == (decoded.shape, decoded.tobytes())
        for record in targets.records.values():
            assert record["correct"] == 0
            names = {"measured_rows", "relative", "max_relative", "max_absolute"}
            assert set(record["error_sums"]) == (set() if exact else names)
    for index in (tmp_path / "S").rglob("commits.json"):
        index.unlink()  # so that records are read one by one
    files = [p for p in (tmp_path / "S/mentors/r8").rglob("*") if p.is_file()]
    for path in [p for p in files if "/logits/" not in str(p)]:
        sound = path.read_bytes()
        flip(path)
        with pytest.raises(RefusedError):
            read_others(tmp_path / "S")
        path.write_bytes(sound)
    read_others(tmp_path / "S")


def read_others(root: Path) -> None:
    for targets in PlainStore(root).others.values():
        for view in (0, 1):
            targets.targets(view)


@pytest.fixture
def people(tmp_path: Path) -> ImageDataset:
    return kdcache.open_dataset("coco-keypoints", data_dir=small_poses(tmp_path / "data"))


@pytest.fixture
def pose_mentors(people: ImageDataset, tmp_path: Path) -> list[Mentor]:
    """Two untrained networks with maps of the height that trained ones have, negative parts too."""
    mentors = []
    for name in ("lp18", "mbpose"):
        network = kdcache.build_network(name, people.num_classes, seed=1).eval()
        network.get_parameter("final_layer.weight").data.normal_()
        with torch.no_grad():
            height = float(network(torch.ones(1, 3, 64, 64)).abs().max())
        network.get_parameter("final_layer.weight").data.div_(height)
        save_weights(tmp_path / f"{name}.safetensors", network, {})
        mentors.append(kdcache.load_mentor(name, people, tmp_path / f"{name}.safetensors"))
    return mentors


@pytest.mark.parametrize("encoder", ["heatmap8", "float16", "float32"])
def test_heatmaps_and_keypoints_are_read_and_decoded_bit_for_bit(
    tmp_path: Path,
    people: ImageDataset,
    pose_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
) -> None:
    """20 people in blocks of 7, 7 and 6 (and 1 of padding)."""
    monkeypatch.setattr("kdcache.encode.heatmaps.Heatmaps.most_block", 8)
    recipe = kdcache.views.PoseAffine(height=96, width=64, seed=2**63 + 5)
    ours = kdcache.precompute_targets(
        people, pose_mentors, store=tmp_path / "S", views=2, recipe=recipe, encoder=encoder,
        flip_test=True,
    )  # fmt: skip
    plain = PlainStore(tmp_path / "S")
    assert plain.num_blocks == 3
    assert sorted(plain.mentors) == ["lp18", "mbpose"]
    np.testing.assert_array_equal(plain.labels_N, people.person_labels.people.annotation_N)
    for name, mentor in plain.mentors.items():
        assert mentor.kind == "heatmaps"
        assert mentor.manifest["run_shape"]["flip_test"] is True
        assert mentor.complete_views == [0, 1]
        keypoints = plain.others[name, "keypoints"]
        for view in mentor.complete_views:
            decoded = ours.targets(view, ours.index_N, [name])[:, 0]
            maps_NJHW = mentor.targets(view)
            assert maps_NJHW.shape == (20, 17, 24, 16)
            assert maps_NJHW.tobytes() == decoded.tobytes()
            assert maps_NJHW.max() > 0.2
            points_NJ3 = keypoints.targets(view)
            stored = ours.targets(view, ours.index_N, [name], kind="keypoints")[:, 0]
            assert points_NJ3.tobytes() == stored.tobytes()
            if encoder == "float32":  # as the page has them decoded
                for maps_JHW, points_J3 in zip(maps_NJHW, points_NJ3.tolist(), strict=True):
                    found = [keypoints_of(map_HW) for map_HW in maps_JHW]
                    assert found == list(map(tuple, points_J3))
        for record in mentor.records.values():
            sums = {"measured_rows", "relative", "argmax", "keypoint", "max_keypoint"}
            names = set() if encoder == "float32" else {*sums, "max_absolute"}
            assert set(record["error_sums"]) == names
    stored_people = people.person_labels.people
    photos = tmp_path / "data" / "coco" / "images"
    files = [(photos / name).read_bytes() for name in stored_people.files]
    told = (stored_people.joints_NJ3, stored_people.box_N4, stored_people.image_N)
    assert plain.proves_people(*told, files)
    assert not plain.proves_people(*told, [files[0] + b" ", *files[1:]])
    assert not plain.proves_people(told[0], told[1] + 0.25, told[2], files)


@pytest.mark.parametrize("name", ["pose-affine", "pose-crop"])
def test_views_of_people_are_replayed_by_the_page(
    name: str, tmp_path: Path, people: ImageDataset, pose_mentors: list[Mentor]
) -> None:
    recipe: Any = kdcache.views.PoseAffine(height=96, width=64, seed=2**63 + 5)
    if name == "pose-crop":
        recipe = kdcache.views.PoseCrop(height=96, width=64)
    kdcache.precompute_targets(
        people, pose_mentors[:1], store=tmp_path / "S", views=1, recipe=recipe
    )
    plain = PlainStore(tmp_path / "S")
    box_N4 = people.person_labels.people.box_N4
    photos = people.images(people.index_N).photos
    assert plain.proves_person_views(box_N4, photos)
    assert not plain.proves_person_views(box_N4 + 0.01, photos)
    assert not plain.proves_person_views(box_N4, [photo // 2 for photo in photos])


def test_the_page_has_heatmap8_number_by_number() -> None:
    page = PAGE.read_text()
    page = page[page.index("## People") : page.index("## Hubs")]
    (name,) = MAP_ENCODERS
    described = MAP_ENCODERS[name].describe()
    rows = {cells[0].strip("`"): cells[1] for cells in table_rows(page, "**`heatmap8`**")}
    assert {"name", *rows} == set(described)
    assert rows.pop("arithmetic") == f"`{described['arithmetic']}`"
    assert {key: float(value) for key, value in rows.items()} == {
        key: described[key] for key in rows
    }
    assert set(plain_reader.MAP_ENCODERS) == set(MAP_ENCODERS)
    for kind in (KINDS["heatmaps"], KINDS["keypoints"]):
        encoders, column = ", ".join(f"`{e}`" for e in kind.encoders), f"| `{kind.name}` |"
        assert column in page or f"`{kind.name}` |" in page
        assert encoders in page
        assert ", ".join(("view", "sample", *kind.dimension_names)) in page
        assert plain_reader.KINDS[kind.name] == (list(kind.dimension_names), list(kind.encoders))
    assert set(plain_reader.KINDS) == set(KINDS)


def test_its_records_say_what_its_rows_say(root: Path, digits: ImageDataset) -> None:
    plain = PlainStore(root)
    for mentor in plain.mentors.values():
        exact = mentor.encoder["name"] == "float32"
        for (view, block), record in mentor.records.items():
            rows = slice(block * plain.block, block * plain.block + record["rows"])
            decoded = mentor.targets(view)[rows]
            if exact:
                assert record["correct"] == (decoded.argmax(1) == plain.labels_N[rows]).sum()
                assert record["error_sums"] == {}
            else:
                assert record["error_sums"]["measured_rows"] == record["rows"]


def test_its_views_are_replayed_by_plain_integers(root: Path, digits: ImageDataset) -> None:
    plain = PlainStore(root)
    images = images_of(digits, plain)
    assert plain.proves(images)
    assert len(plain.manifest["replay_proof"]) == 16
    recipe = kdcache.open_store(root).recipe
    index = int(plain.index_N[7])
    for view in (0, 1, 99):
        ours = recipe(digits.images(np.array([index])), np.array([index]), view)[0]
        np.testing.assert_array_equal(plain.view_pixels(images[index], index, view), ours)
    images[plain.manifest["replay_proof"][3]["index"]] ^= 1
    assert not plain.proves(images)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("root", ["sqrt8"], indirect=True)
def test_the_reader_notices_a_flipped_bit_in_every_file(root: Path) -> None:
    def read() -> int:
        store = PlainStore(root)
        views = [(m, view) for m in store.mentors.values() for view in m.complete_views]
        return sum(len(mentor.targets(view)) for mentor, view in views)

    assert read() == 2 * 2 * 100
    for index in root.glob("mentors/*/logits/commits.json"):
        flip(index)
        assert read() == 2 * 2 * 100  # it is only an aid
        index.unlink()  # so that records are read one by one
    files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
    chunks_and_records = 2 * 2 * 2 * 3
    assert len(files) == 1 + 2 * 2 + 1 + 2 * 2 + chunks_and_records
    for path in files:
        sound = path.read_bytes()
        flip(path)
        with pytest.raises(RefusedError):
            read()
        path.write_bytes(sound)
    assert read() == 2 * 2 * 100


@pytest.mark.parametrize("root", ["float16"], indirect=True)
@pytest.mark.parametrize(
    ("document", "change", "refused"),
    [
        ("zarr.json", {"format": 2}, "format 2"),
        ("zarr.json", {"extra": 1}, "members"),
        ("zarr.json", {"view_seed": 1}, "fingerprint"),
        ("mentors/r8/zarr.json", {"fingerprint": "0" * 64}, "other views"),
        ("mentors/r8/zarr.json", {"name": "r9"}, "is of r9"),
        ("mentors/r8/zarr.json", {"checkpoint_sha256": "0" * 64}, "is of other targets"),
        ("mentors/r8/logits/zarr.json", {"kind": "features"}, "metadata"),
    ],
)
def test_both_readers_refuse_what_the_page_refuses(
    root: Path, document: str, change: dict[str, Any], refused: str
) -> None:
    content = json.loads((root / document).read_text())
    content["attributes"]["kdcache"] |= {**change, "seal": BLANK}
    (root / document).write_bytes(seal(content))
    with pytest.raises(RefusedError, match=refused):
        PlainStore(root)
    with pytest.raises(kdcache.errors.StoreError):
        kdcache.open_store(root).usable_views(["r8"])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False,
                                                                      allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(value=JSON_VALUES)
def test_canonical_json_is_what_the_page_says(value: Any) -> None:
    assert plain_reader.canonical(value) == canonical_json(value)


@given(payload=st.binary(max_size=64))
def test_crc32c_is_the_page_s(payload: bytes) -> None:
    assert plain_reader.crc32c(payload) == int(google_crc32c.value(payload))


@given(
    seed=st.integers(0, 2**64 - 1),
    purpose=st.sampled_from(list(philox.Purpose)),
    major=st.integers(0, 2**63 - 1),
    minor=st.integers(0, 2**32 - 1),
)
def test_philox_is_the_page_s(seed: int, purpose: philox.Purpose, major: int, minor: int) -> None:
    ours = philox.words(seed, purpose, np.array([major]), minor)[0]
    assert plain_reader.philox(seed, purpose, major, minor) == ours.tolist()


def table_rows(page: str, after: str) -> list[list[str]]:
    """The cells of the first table after a heading's words."""
    lines = page[page.index(after) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_page_lists_every_encoder_purpose_and_recipe() -> None:
    page = PAGE.read_text()
    rows = {row[0].strip("`"): row for row in table_rows(page, "ENCODER has exactly")}
    assert set(rows) == set(ENCODERS) == set(plain_reader.ENCODERS)
    for name, encoder in ENCODERS.items():
        row = rows[name]
        assert row[1] == f"`{encoder.dtype}`"
        if not row[3].startswith("as "):
            assert row[3] == f"`{encoder.arithmetic}`"
        stated = [float(cell.split()[0]) for cell in row[4:] if not cell.startswith("as ")]
        every = [encoder.relative_error, encoder.absolute_error, encoder.root_error]
        assert stated == every[: len(stated)]
    for purpose in philox.Purpose:
        assert f"{int(purpose)} {purpose.name.lower().replace('_', ' ')}" in " ".join(
            page.split()
        ).replace("view parameters", "view")
    for recipe in kdcache.views.RECIPES.values():
        assert f"**`{recipe.name}`**, version {recipe.version}" in page


def test_the_page_has_the_fitted_encoders_number_by_number() -> None:
    page = PAGE.read_text()
    page = page[page.index("## Fitted encoders") : page.index("## Other kinds")]
    assert set(FITTED) == set(plain_reader.FITTED)
    levels = Levels(fine=30.5, coarse=2.25, knee=200)
    residual = Residual(levels=levels, table=bytes(3), num_classes=3)
    coarse = Coarse(levels=levels, table=bytes(3), num_classes=3)
    members = {row[0].strip("`") for row in table_rows(page, "ENCODER has the five")}
    assert members == set(residual.describe()) - set(ENCODERS["float16"].describe())
    described = residual.arithmetic, coarse.arithmetic.removeprefix(residual.arithmetic)
    assert [line.strip() for line in page.splitlines() if line.startswith("    ")][-2:] == [
        *described
    ]
    for encoder in (residual, coarse):
        stated = json.loads(json.dumps(encoder.describe()))
        assert plain_reader.FittedEncoder(stated, 3).describe() == encoder.describe()
    # The table of bounds, as it stands there.
    names = {"t": 1 / levels.coarse, "u": 1 + 2.0**-11, "r": 200 / 30.5 + 55 / 2.25}
    rows = {row[0].strip("`"): row[1:] for row in table_rows(page, "**Bounds**")}
    for letter, cell in zip("AB", rows["residual"][1:], strict=True):
        names[letter] = eval(cell.removeprefix(f"{letter} = "), dict(names))
    assert (names["A"], names["B"]) == (residual.absolute_error, residual.root_error)
    assert eval(rows["coarse"][1], dict(names)) == coarse.absolute_error
    assert rows["coarse"][2] == "B"
    assert coarse.root_error == names["B"]


@pytest.mark.parametrize("root", FITTED, indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        {"fine": 2.0**17}, {"coarse": 2.0**-11}, {"knee": 256}, {"knee": 1.0}, {"fine": 30},
        {"table": ""}, {"another": 1}, {"root_error": 1.0}, {"arithmetic": "target = stored"},
        {"table": base64.b64encode(bytes(11)).decode()},
        {"table": base64.b64encode(bytes(100)).decode() + "\n"},
    ],
    ids=str,
)  # fmt: skip
def test_both_readers_refuse_a_fitted_encoder_that_is_none(
    root: Path, change: dict[str, Any]
) -> None:
    path = root / "mentors/r8/logits/zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["kdcache"]["encoder"] |= change
    content["attributes"]["kdcache"]["seal"] = BLANK
    path.write_bytes(seal(content))
    with pytest.raises((RefusedError, ValueError)):
        PlainStore(root)
    with pytest.raises(kdcache.errors.StoreError):
        kdcache.open_store(root).usable_views(["r8"])


@pytest.mark.parametrize("root", ["float16"], indirect=True)
def test_the_page_lists_every_member(root: Path) -> None:
    manifest, mentor = (
        json.loads((root / path).read_text())["attributes"]["kdcache"]
        for path in ("zarr.json", "mentors/r8/zarr.json")
    )
    record = json.loads(next(root.glob("mentors/r8/logits/commits/*")).read_text())
    of_classes = {"image_shape"}
    of_people = {row[0].strip("`") for row in table_rows(PAGE.read_text(), "**Of people**")}
    data = small_poses(root.parent / "data")
    people = kdcache.open_dataset("mpii", data_dir=data).identity()
    assert set(people) == set(manifest["dataset"]) - of_classes | of_people
    for after, members in (
        ("MANIFEST has exactly", manifest),
        ("`dataset`:\n", manifest["dataset"]),
        ("`mentors/<m>/zarr.json` is a group", mentor),
        ("### Commit records", record),
    ):
        rows = table_rows(PAGE.read_text(), after)
        listed = {name.strip("` ") for row in rows for name in row[0].split(",")}
        assert listed == set(members) - {"seal"}
