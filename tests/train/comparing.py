"""Whether two runs ended the same."""

from pathlib import Path
from typing import Any

import torch

from kdcache.checkpoints import read_state_dict
from kdcache.train.run_folder import RunFolder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_state_dict(folder / "student.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def same_run(a: Path, b: Path) -> bool:
    """The same weights bit for bit, the same records but for their seconds, nothing left over."""
    ours, theirs = (timeless(RunFolder(folder).records()) for folder in (a, b))
    files = [sorted(file.name for file in folder.iterdir()) for folder in (a, b)]
    return ours == theirs and files[0] == files[1] and same_weights(a, b)


def learned_in(state: object) -> list[torch.Tensor]:
    """What a loss learned by a checkpoint, and the momentum of every weight that has one."""
    assert isinstance(state, dict)
    return [*state["loss"].values(), *(one for one in state["momentum"] if one is not None)]
