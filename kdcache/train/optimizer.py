"""The optimiser of a run, and what of it a checkpoint keeps: its moments, and Adam's step count.

Rates and decay are the config's, so that no file can change them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kdcache.train.train_config import TrainConfig

# By kind: the tensors that it keeps of each weight, by their name in a checkpoint.
_KEPT = {
    torch.optim.SGD: {"momentum": "momentum_buffer"},
    torch.optim.Adam: {"momentum": "exp_avg", "second_moment": "exp_avg_sq"},
}
_SECOND_DECAY = 0.999  # Kingma and Ba, arXiv 1412.6980; the first is the config's momentum


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum (not Nesterov's), or Adam with weight decay as an L2 term."""
    if config.optimizer == "adam":
        return torch.optim.Adam(
            groups,
            lr=config.lr,
            betas=(config.momentum, _SECOND_DECAY),
            weight_decay=config.weight_decay,
        )
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def kept_moments(
    optimizer: torch.optim.Optimizer, weights: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """What a checkpoint keeps: a list for each moment, None for a weight that has none yet."""
    states = [optimizer.state.get(w, {}) for w in weights]
    kept: dict[str, Any] = {
        name: [state.get(key) for state in states] for name, key in _kept(optimizer).items()
    }
    if isinstance(optimizer, torch.optim.Adam):
        kept["steps"] = [int(state["step"]) if state else 0 for state in states]
    return kept


def expected_moments(
    optimizer: torch.optim.Optimizer, weights: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """Of which shapes and kinds `kept_moments` may be."""
    expected: dict[str, Any] = {name: [w.detach() for w in weights] for name in _kept(optimizer)}
    if isinstance(optimizer, torch.optim.Adam):
        expected["steps"] = [0] * len(weights)
    return expected


def bad_moments(optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> str | None:
    """Why moments of the right shapes are still none that `kept_moments` gave; None if they are."""
    if not isinstance(optimizer, torch.optim.Adam):
        return None
    each = zip(kept["steps"], *(kept[name] for name in _kept(optimizer)), strict=True)
    for position, (steps, *moments) in enumerate(each):
        there = {moment is not None for moment in moments}
        if type(steps) is not int or steps < 0 or there != {steps > 0}:
            return f"its moments of weight {position} are not those of {steps!r:.20} steps"
    return None


def restore_moments(
    optimizer: torch.optim.Optimizer, weights: Sequence[torch.Tensor], kept: Mapping[str, Any]
) -> None:
    """Puts back what `kept_moments` gave."""
    for name, key in _kept(optimizer).items():
        for weight, moment in zip(weights, kept[name], strict=True):
            if moment is not None:
                own = torch.empty_like(weight, requires_grad=False).copy_(moment)
                optimizer.state[weight][key] = own
    if isinstance(optimizer, torch.optim.Adam):
        for weight, steps in zip(weights, kept["steps"], strict=True):
            if optimizer.state[weight]:
                optimizer.state[weight]["step"] = torch.tensor(float(steps))


def _kept(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    return _KEPT[type(optimizer)]
