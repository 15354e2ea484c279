"""What a store says about itself: which views it is for, and who its mentors are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache.canonical import json_sha256
from kdcache.errors import StoreError, StoreMismatch, both_sides, differences
from kdcache.store.layout import FORMAT


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The root group's `attributes.kdcache`. Written once; everything in it is about the views.

    `dataset`: the dataset identity; `recipe` and `view_seed`: how views are made; `block`: samples
    a chunk; `replay_proof`: checksums of sampled views; `written_by`: library versions.
    """

    format: int
    fingerprint: str
    dataset: dict[str, Any]
    recipe: dict[str, Any]
    view_seed: int
    block: int
    replay_proof: list[dict[str, Any]]
    written_by: dict[str, str]

    @property
    def num_samples(self) -> int:
        return int(self.dataset["num_samples"])

    @property
    def num_blocks(self) -> int:
        return -(-self.num_samples // self.block)

    def block_rows(self, block: int) -> slice:
        """The positions (in the store's index list) of a block's samples."""
        return slice(block * self.block, min((block + 1) * self.block, self.num_samples))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MentorManifest:
    """A mentor group's `attributes.kdcache`: everything that decides what the mentor says.

    `run_shape`: precision, memory format and padded batch of its forward passes.
    """

    name: str
    architecture: str
    num_classes: int
    checkpoint_sha256: str
    preprocessing: dict[str, Any]
    run_shape: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fingerprint(dataset: Mapping[str, Any], recipe: Mapping[str, Any], view_seed: int) -> str:
    """Names the views: hex SHA-256 of the canonical JSON of (dataset identity, recipe, seed)."""
    return json_sha256({"dataset": dict(dataset), "recipe": dict(recipe), "view_seed": view_seed})


def read_attributes(metadata: Path) -> dict[str, Any]:
    """`attributes.kdcache` of a zarr.json. Raises StoreError when it is not ours."""
    try:
        attributes = json.loads(metadata.read_bytes())["attributes"]["kdcache"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{metadata.parent} is not (part of) a kdcache store: {metadata.name} is missing or "
            f"lacks attributes.kdcache ({type(error).__name__}). Make one with `kdcache precompute`"
        ) from error
    if not isinstance(attributes, dict):
        raise StoreError(f"{metadata}: attributes.kdcache must be an object")
    return attributes


def read_manifest(root: Path) -> Manifest:
    """The manifest of the store at `root`, its format and fingerprint checked."""
    attributes = read_attributes(root / "zarr.json")
    found = attributes.get("format")
    if found != FORMAT:
        raise StoreError(
            f"{root} has store format {found!r}, this version of kdcache reads format {FORMAT}; "
            "use the version that wrote it"
        )
    try:
        manifest = Manifest(**attributes)
        _check_types(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(f"{root}: the manifest is not one of format {FORMAT} ({error})") from error
    expected = fingerprint(manifest.dataset, manifest.recipe, manifest.view_seed)
    if expected != manifest.fingerprint:
        raise StoreError(
            f"{root}: the manifest was altered: it states the fingerprint {manifest.fingerprint}, "
            f"its content has {expected}. Fetch the store again from where it came"
        )
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raises TypeError, KeyError or ValueError for a manifest that no writer wrote."""
    for name, kind in (
        ("dataset", dict),
        ("recipe", dict),
        ("written_by", dict),
        ("replay_proof", list),
    ):
        if not isinstance(getattr(manifest, name), kind):
            raise TypeError(f"{name} must be a {kind.__name__}")
    counts = {
        "block": manifest.block,
        "num_samples": manifest.dataset["num_samples"],
        "num_classes": manifest.dataset["num_classes"],
        "view_seed": manifest.view_seed,
    }
    for name, value in counts.items():
        if type(value) is not int or value < (0 if name == "view_seed" else 1):
            raise ValueError(f"{name} cannot be {value!r}")
    for name in ("name", "split", "index_sha256", "labels_sha256", "pixels_sha256"):
        if not isinstance(manifest.dataset[name], str):
            raise TypeError(f"dataset.{name} must be a string")
    if not manifest.replay_proof:
        raise ValueError("replay_proof is empty")
    for sampled in manifest.replay_proof:
        if not (isinstance(sampled, dict) and {"view", "index", "sha256"} <= sampled.keys()):
            raise TypeError(f"replay_proof holds {sampled!r}")


def read_mentor_manifest(group_metadata: Path) -> MentorManifest:
    """The identity of a stored mentor."""
    attributes = read_attributes(group_metadata)
    try:
        manifest = MentorManifest(**attributes)
        if not (isinstance(manifest.name, str) and isinstance(manifest.run_shape, dict)):
            raise TypeError("name must be a string and run_shape an object")
        return manifest
    except TypeError as error:
        raise StoreError(f"{group_metadata}: not a mentor of format {FORMAT} ({error})") from error


def require_equal(
    what: str,
    left: tuple[str, Mapping[str, Any]],
    right: tuple[str, Mapping[str, Any]],
    remedy: str,
) -> None:
    """Raises StoreMismatch with a table of both (title, description) sides where they differ."""
    (left_title, left_side), (right_title, right_side) = left, right
    different = differences(left_side, right_side)
    if different:
        table = both_sides(left_title, right_title, different)
        raise StoreMismatch(f"{what} differs:\n{table}\n{remedy}")
