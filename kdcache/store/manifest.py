"""What a store says about itself: which views it is for, and who its mentors are."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache.canonical import json_sha256
from kdcache.encode import Encoder, TargetKind, primary_kind
from kdcache.errors import StoreError, StoreMismatch, UsageError, both_sides, differences
from kdcache.heatmaps import STRIDE
from kdcache.store.layout import FORMAT, METADATA, MOST_VIEWS, block_size, member_name
from kdcache.store.plain import require_plain
from kdcache.store.sealed import BLANK, SEAL, read_sealed
from kdcache.store.zarr_metadata import group_metadata
from kdcache.tasks import CLASSIFICATION, POSE

MOST_PROOFS = 1000  # each is replayed before a training's first step; a writer makes 16
MOST_PARAMETERS = 64  # of a sampled view of a tolerant recipe; pose-affine has 9
MOST_PIXEL_VALUES = 1024  # of such a view; a writer takes 256 pixels of 3 channels
LARGEST_PARAMETER = 1e12


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The root group's `attributes.kdcache`. Written once; everything in it is about the views.

    `dataset`: the dataset identity; `recipe` and `view_seed`: how views are made; `block`: samples
    a chunk; `replay_proof`: sampled views, by checksum or in part; `written_by`: library versions.
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
    def described(self) -> dict[str, Any]:
        """What rows are of, for kinds of targets: the dataset's identity, and "heatmap_shape"
        where the recipe has a height and a width."""
        sides = [self.recipe.get(side) for side in ("height", "width")]
        if not all(type(side) is int for side in sides):
            return self.dataset
        return {**self.dataset, "heatmap_shape": [int(side) // STRIDE for side in sides if side]}

    @property
    def primary(self) -> TargetKind:
        """The kind of targets that every mentor of these views has."""
        return primary_kind(self.dataset)

    @property
    def num_samples(self) -> int:
        return int(self.dataset["num_samples"])

    @property
    def usual_block(self) -> int:
        """The samples a chunk that this version's stores of such views have."""
        return block_size(self.num_samples, self.primary.most_block)

    @property
    def num_blocks(self) -> int:
        return -(-self.num_samples // self.block)

    def block_rows(self, block: int) -> slice:
        """The positions (in the store's index list) of a block's samples."""
        return slice(block * self.block, min((block + 1) * self.block, self.num_samples))

    def num_rows(self, block: int) -> int:
        """Samples of a block; the last may have fewer."""
        return min(self.block, self.num_samples - block * self.block)

    def document(self) -> dict[str, Any]:
        """The root group's zarr.json, to be sealed."""
        return group_metadata({**asdict(self), SEAL: BLANK})


@dataclass(frozen=True, kw_only=True)
class MentorManifest:
    """A mentor group's `attributes.kdcache`: everything that decides what the mentor says.

    `fingerprint`: of the views its targets are for. `run_shape`: precision, memory format and
    padded batch of its forward passes.
    """

    fingerprint: str
    name: str
    architecture: str
    num_classes: int
    checkpoint_sha256: str
    preprocessing: dict[str, Any]
    run_shape: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def document(self) -> dict[str, Any]:
        """The mentor group's zarr.json, to be sealed."""
        return group_metadata({**asdict(self), SEAL: BLANK})


def fingerprint(dataset: Mapping[str, Any], recipe: Mapping[str, Any], view_seed: int) -> str:
    """Names the views: hex SHA-256 of the canonical JSON of (dataset identity, recipe, seed)."""
    return json_sha256({"dataset": dict(dataset), "recipe": dict(recipe), "view_seed": view_seed})


def targets_identity(mentor: MentorManifest, kind: TargetKind, encoder: Encoder) -> str:
    """Names what a chunk's targets are: of which views, by which mentor, in which encoding.

    Every commit record states it, so that no chunk is ever taken for another store's or mentor's.
    """
    return json_sha256(
        {"mentor": mentor.to_json(), "kind": kind.name, "encoder": encoder.describe()}
    )


def read_attributes(metadata: Path) -> dict[str, Any]:
    """`attributes.kdcache` of a sealed zarr.json, without its seal.

    Raises StoreError when there is none, DamagedTargets when it is not what was written.
    """
    try:
        attributes = read_sealed(metadata).get("attributes")
    except FileNotFoundError:
        raise StoreError(
            f"{metadata.parent} is not (part of) a kdcache store: it has no {metadata.name}. Make "
            "one with `kdcache precompute`"
        ) from None
    found = attributes.get("kdcache") if isinstance(attributes, dict) else None
    if not isinstance(found, dict) or found.pop(SEAL, None) is None:
        raise StoreError(f"{metadata}: attributes.kdcache must be an object with a seal")
    return found


def read_manifest(root: Path) -> Manifest:
    """The manifest of the store at `root`, its seal, format and fingerprint checked."""
    return manifest_of(read_attributes(root / METADATA), root)


def manifest_of(attributes: Mapping[str, Any], origin: object) -> Manifest:
    """The manifest that a root group's `attributes.kdcache` is, without its seal.

    `origin`: where it is from, for messages. Raises StoreError for one of another format, or none
    that a writer wrote.
    """
    found = attributes.get("format")
    if found != FORMAT or type(found) is not int:
        raise StoreError(
            f"{origin} has store format {found!r}, this version of kdcache reads format {FORMAT}; "
            f"use the version that wrote it ({_writer(attributes)}) or a later one"
        )
    try:
        manifest = Manifest(**attributes)
        _check_types(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(
            f"{origin}: the manifest is not one of format {FORMAT} ({error})"
        ) from error
    expected = fingerprint(manifest.dataset, manifest.recipe, manifest.view_seed)
    if expected != manifest.fingerprint:
        raise StoreError(
            f"{origin}: the manifest was altered: it states the fingerprint "
            f"{manifest.fingerprint}, its content has {expected}. Fetch the store again from where "
            "it came"
        )
    return manifest


def _writer(attributes: Mapping[str, Any]) -> str:
    written_by = attributes.get("written_by")
    version = written_by.get("kdcache", "-") if isinstance(written_by, dict) else "-"
    return f"kdcache {str(version)[:40]}"


def _check_types(manifest: Manifest) -> None:
    """Raises TypeError, KeyError or ValueError for a manifest that no writer wrote."""
    for name, kind in (
        ("fingerprint", str),
        ("dataset", dict),
        ("recipe", dict),
        ("written_by", dict),
        ("replay_proof", list),
    ):
        if not isinstance(getattr(manifest, name), kind):
            raise TypeError(f"{name} must be a {kind.__name__}")
    for name in ("dataset", "recipe", "written_by"):
        require_plain(name, getattr(manifest, name))
    if not isinstance(manifest.recipe["name"], str):
        raise TypeError("recipe.name must be a string")
    counts = {
        "num_samples": (manifest.dataset["num_samples"], 1, 2**40),
        "num_classes": (manifest.dataset["num_classes"], 1, 2**24),
        "view_seed": (manifest.view_seed, 0, 2**64 - 1),
    }
    for name, (value, least, most) in counts.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} cannot be {value!r:.80}")
    if type(manifest.block) is not int or not 1 <= manifest.block <= manifest.num_samples:
        raise ValueError(f"block cannot be {manifest.block!r:.80}")
    for name in ("name", "split", "index_sha256", "labels_sha256", "pixels_sha256"):
        if not isinstance(manifest.dataset[name], str):
            raise TypeError(f"dataset.{name} must be a string")
    task = manifest.dataset.get("task", CLASSIFICATION)
    if task not in (CLASSIFICATION, POSE):
        raise ValueError(f"task cannot be {task!r:.80}")
    if not all(isinstance(version, str) for version in manifest.written_by.values()):
        raise TypeError("written_by must map libraries to versions")
    if not 1 <= len(manifest.replay_proof) <= MOST_PROOFS:
        raise ValueError(f"replay_proof must have 1 to {MOST_PROOFS} entries")
    # 0 too is what a recipe's `exact` equals, so it counts as false here as well.
    is_content = _is_sample if manifest.recipe.get("exact") in (False,) else _is_checksum
    for sampled in manifest.replay_proof:
        if not (_is_sampled_view(sampled) and is_content(sampled)):
            raise TypeError(f"replay_proof holds {str(sampled)[:80]}")


def _is_sampled_view(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int and value[key] >= 0 for key in ("view", "index"))
        and value["view"] < MOST_VIEWS
        and value["index"] < 2**62
    )


def _is_checksum(sampled: dict[str, Any]) -> bool:
    """What the proof of an exact recipe says of a view."""
    return sampled.keys() == {"view", "index", "sha256"} and isinstance(sampled["sha256"], str)


def _is_sample(sampled: dict[str, Any]) -> bool:
    """What the proof of a tolerant recipe says of a view."""
    if sampled.keys() != {"view", "index", "parameters", "pixels"}:
        return False
    parameters, pixels = sampled["parameters"], sampled["pixels"]
    return (
        isinstance(parameters, list)
        and 1 <= len(parameters) <= MOST_PARAMETERS
        and all(type(x) in (int, float) and abs(x) <= LARGEST_PARAMETER for x in parameters)
        and isinstance(pixels, str)
        and len(pixels) <= 2 * MOST_PIXEL_VALUES
        and re.fullmatch(r"(?:[0-9a-f]{2})+", pixels) is not None
    )


def read_mentor_manifest(group_metadata: Path) -> MentorManifest:
    """The identity of a stored mentor. Errors as `read_attributes`'s."""
    return mentor_of(read_attributes(group_metadata), group_metadata)


def mentor_of(attributes: Mapping[str, Any], origin: object) -> MentorManifest:
    """The mentor that a group's `attributes.kdcache` is, without its seal. Raises StoreError."""
    try:
        manifest = MentorManifest(**attributes)
        texts = (manifest.fingerprint, manifest.name, manifest.architecture)
        if not all(isinstance(text, str) for text in (*texts, manifest.checkpoint_sha256)):
            raise TypeError("fingerprint, name, architecture and checkpoint_sha256 must be strings")
        if not all(isinstance(x, dict) for x in (manifest.preprocessing, manifest.run_shape)):
            raise TypeError("preprocessing and run_shape must be objects")
        if type(manifest.num_classes) is not int or manifest.num_classes < 1:
            raise TypeError("num_classes must be an integer from 1 up")
        require_plain("it", manifest.to_json())
        member_name(manifest.name)
        return manifest
    except (TypeError, ValueError, UsageError) as error:
        raise StoreError(f"{origin}: not a mentor of format {FORMAT} ({error})") from error


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
