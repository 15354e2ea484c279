"""Which file is which mentor's: names, the mentor library, sidecars, `NAME=FILE` options.

A mentor has one name here, the short one where there is one (r56), and its checkpoint is called by
the long one (resnet56.safetensors), with a sidecar JSON beside it. No weights are read.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kdcache import homes
from kdcache.datasets import Preprocessing
from kdcache.errors import CheckpointError, UsageError
from kdcache.models import long_name, short_name
from kdcache.untrusted import read_json

SUFFIXES = (".safetensors", ".pt", ".pth", ".th")
_MOST_SIDECAR = 2**20  # bytes
_File = TypeVar("_File", bound=str | os.PathLike[str])


def mentor_name(name: str) -> str:
    """A mentor's one name: the short one where there is one. Raises UsageError if unknown."""
    return short_name(long_name(name))


def find_checkpoint(name: str, dataset_name: str) -> Path:
    """A mentor's checkpoint in the library or `$KDCACHE_DATA/mentors`."""
    stem = library_stem(name)
    for folder in homes.checkpoint_folders(dataset_name):
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise CheckpointError(how_to_get(name, dataset_name))


def how_to_get(name: str, dataset_name: str, hub: str | None = None) -> str:
    """Where a mentor's checkpoint was looked for, and how to get one. `hub`: has none either."""
    stem = library_stem(name)
    looked = "\n".join(
        f"  {folder / stem}{{{','.join(SUFFIXES)}}}"
        for folder in homes.checkpoint_folders(dataset_name)
    )
    none = "" if hub is None else f"{hub} has none either.\n"
    fourth = (
        f"take a teammate's from a hub (kdcache pull-mentor {name} --dataset {dataset_name} --hub "
        "URL; kdcache push-mentor puts one there)"
        if hub is None
        else "ask who has it to share it: "
        f"kdcache push-mentor {name} --dataset {dataset_name} --hub {hub}"
    )
    return (
        f"mentor {name!r} has no checkpoint for {dataset_name}. Looked for\n{looked}\n{none}"
        f"Four ways to get one: train it (kdcache train-mentor {name} --dataset {dataset_name}), "
        f"put a file there, name one (--checkpoint {name}=FILE), or {fourth}"
    )


def library_stem(name: str) -> str:
    """File name, without suffix, of a network's checkpoint in the mentor library."""
    return long_name(name).replace(":", ".")


def sidecar_path(checkpoint: Path) -> Path:
    """The JSON beside a checkpoint: preprocessing, and what is known of its training."""
    return checkpoint.with_suffix(".json")


def sidecar_preprocessing(checkpoint: Path, channels: int) -> Preprocessing | None:
    """The preprocessing a checkpoint's sidecar states; None without a sidecar.

    Raises CheckpointError for a sidecar that cannot be read, is not strict JSON (`untrusted`), has
    more than 1 MiB, or states anything else than a mean and a std for each of `channels` channels.
    """
    stated = read_sidecar(checkpoint)
    described = None if stated is None else stated.get("preprocessing")
    if described is None:
        return None
    try:
        return Preprocessing.from_description(described, channels)
    except ValueError as error:
        raise _unusable(sidecar_path(checkpoint), error) from error


def read_sidecar(checkpoint: Path) -> dict[str, Any] | None:
    """What a checkpoint's sidecar says; None without one. Raises CheckpointError as above."""
    path = sidecar_path(checkpoint)
    try:
        stated = read_json(path, most_bytes=_MOST_SIDECAR)
        if not isinstance(stated, dict):
            raise ValueError(f"it is a {type(stated).__name__}")
        return stated
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} must be a JSON object with an optional preprocessing entry ({error}). "
        "Correct it, or remove it: the dataset's preprocessing is then used"
    )


def parse_checkpoints(given: Sequence[str]) -> Mapping[str, Path]:
    """`NAME=FILE` options as a mapping from short name to path.

    Raises UsageError for another form, an unknown network, or one that is named twice.
    """
    pairs: list[tuple[str, Path]] = []
    for item in given:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise UsageError(f"--checkpoint takes NAME=FILE, got {item!r}")
        pairs.append((name, Path(file).expanduser()))
    return by_one_name(pairs)


def require_all_used(checkpoints: Iterable[str], names: Iterable[str]) -> None:
    """Raises UsageError for a checkpoint of a mentor that is not among those that run."""
    run = [mentor_name(name) for name in names]
    unused = [name for name in map(mentor_name, checkpoints) if name not in run]
    if unused:
        raise UsageError(
            f"--checkpoint names {', '.join(unused)}, but the mentors that run are "
            f"{', '.join(run)}; add it to --mentors, or leave its --checkpoint out"
        )


def by_one_name(pairs: Iterable[tuple[str, _File]]) -> dict[str, _File]:
    """Checkpoints by mentors' one names. Raises UsageError for two of one mentor."""
    checkpoints: dict[str, _File] = {}
    for given, file in pairs:
        name = mentor_name(given)
        if name in checkpoints:
            raise UsageError(
                f"mentor {name!r} is given two checkpoints, {checkpoints[name]} and {file}; "
                f"give one --checkpoint {name}=FILE"
            )
        checkpoints[name] = file
    return checkpoints
