"""Loading weights into a network: the same keys and shapes on both sides, or an error."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.checkpoints.reading import read_file
from kdcache.checkpoints.renaming import renamed
from kdcache.checkpoints.state_dict import is_plain_tensor, listed, refuse_non_finite
from kdcache.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_weights(network: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Loads the checkpoint into the network: the same keys and shapes on both sides, or an error.

    Names of other repositories for the same network are known (`renaming`). Only BatchNorm's
    `num_batches_tracked` may be missing: files from before PyTorch 0.4.1 lack it and inference
    does not read it. Values are cast to the network's dtypes and copied to its
    device.

    Raises `CheckpointError` as `read_state_dict` does, and for a checkpoint of another network; the
    network is then as it was.
    """
    path = Path(path)
    fit_weights(network, path, read_file(path))


def fit_weights(network: "nn.Module", path: Path, found: "Mapping[str, Tensor]") -> None:
    """`load_weights` of tensors that are read already, from the file at `path`."""
    state = network.state_dict()  # an OrderedDict that keeps the modules' version numbers
    expected = {key: value for key, value in state.items() if is_plain_tensor(value)}
    found = renamed(found, expected)
    _refuse_mismatch(path, type(network).__name__, found, expected)
    cast = {key: value.to(expected[key].dtype) for key, value in found.items()}
    refuse_non_finite(str(path), cast)  # a float64 value may overflow float32
    state.update(cast)
    network.load_state_dict(state)


def _refuse_mismatch(
    path: Path, network: str, found: "dict[str, Tensor]", expected: "dict[str, Tensor]"
) -> None:
    """Raises with both sides unless the file's tensors fit the network's, name by name."""
    missing = [k for k in expected if k not in found and not k.endswith(".num_batches_tracked")]
    unknown = [key for key in found if key not in expected]
    shapes = {
        key: (tuple(found[key].shape), tuple(expected[key].shape))
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    }
    kinds = [
        key
        for key in expected
        if key in found and expected[key].is_floating_point() and not found[key].is_floating_point()
    ]
    if not missing and not unknown and not kinds and shapes:
        _refuse_other_class_count(path, shapes)
    if missing or unknown or shapes or kinds:
        parts = [
            listed(missing, "the network expects and the file lacks", missing),
            listed(unknown, "the file has and the network does not know", unknown),
            listed(
                shapes,
                "of another shape",
                (
                    f"{key} {theirs} in the file, {ours} here"
                    for key, (theirs, ours) in shapes.items()
                ),
            ),
            listed(
                kinds,
                "not floating point",
                (f"{key} {found[key].dtype} in the file" for key in kinds),
            ),
        ]
        raise CheckpointError(
            f"{path} is not a checkpoint of this {network}:"
            + "".join(parts)
            + "\nGive the checkpoint of this very network, or name the network the file belongs to."
        )


def _refuse_other_class_count(
    path: Path, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Raises when the outputs' number is all that differs: any other layer's width would change its
    successor's input too."""
    pairs = {(theirs[:1], ours[:1]) for theirs, ours in shapes.values()}
    if len(pairs) == 1 and all(theirs[1:] == ours[1:] for theirs, ours in shapes.values()):
        ((theirs, ours),) = pairs
        pose = all(key.startswith("final_layer.") for key in shapes)  # so our pose networks end
        outputs = "joints" if pose else "classes"
        raise CheckpointError(
            f"{path} has {theirs[0]} {outputs}, the dataset has {ours[0]}. "
            "Give a checkpoint trained on this dataset, or train one: kdcache train-mentor NAME."
        )
