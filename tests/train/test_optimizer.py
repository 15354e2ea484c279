"""Moments that a checkpoint keeps: put back, an optimiser goes on as if it had never stopped."""

from pathlib import Path

import pytest
import torch

from kdcache.train import TrainConfig, checkpoint_file
from kdcache.train.optimizer import (
    bad_moments,
    expected_moments,
    kept_moments,
    make_optimizer,
    restore_moments,
)
from kdcache.train.run_state import misfits

SETTINGS: list[dict[str, object]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
    {"optimizer": "adam", "lr": 0.01, "momentum": 0.5},
]
every_setting = pytest.mark.parametrize("options", SETTINGS, ids=str)


def made(options: dict[str, object]) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    start = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 2, generator=start)) for _ in range(3)]
    config = TrainConfig(**options)  # type: ignore[arg-type]  # as a config file gives them
    return make_optimizer([{"params": weights}], config), weights


def step(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], number: int) -> None:
    """The last weight has no gradient in the first steps: it has no moments then."""
    draw = torch.Generator().manual_seed(number)
    for position, weight in enumerate(weights):
        gradient = torch.randn(weight.shape, generator=draw)
        weight.grad = None if position == 2 and number < 4 else gradient
    optimizer.step()


@every_setting
@pytest.mark.parametrize("stopped", [0, 1, 5])
def test_it_goes_on_as_if_it_had_never_stopped(
    options: dict[str, object], stopped: int, tmp_path: Path
) -> None:
    whole, expected = made(options)
    first, weights = made(options)
    for number in range(8):
        step(whole, expected, number)
    for number in range(stopped):
        step(first, weights, number)
    checkpoint_file.save_state(tmp_path / "state.pt", kept_moments(first, weights))
    state = checkpoint_file.load_state(tmp_path / "state.pt")
    assert isinstance(state, dict)
    second, again = made(options)
    assert not list(misfits(state, expected_moments(second, again)))
    with torch.no_grad():
        for ours, theirs in zip(again, weights, strict=True):
            ours.copy_(theirs)
    restore_moments(second, again, state)
    for number in range(stopped, 8):
        step(second, again, number)
    for ours, theirs in zip(again, expected, strict=True):
        assert torch.equal(ours, theirs)


@every_setting
def test_moments_of_another_shape_or_kind_do_not_fit(options: dict[str, object]) -> None:
    optimizer, weights = made(options)
    for number in range(5):
        step(optimizer, weights, number)
    expected = expected_moments(optimizer, weights)
    kept = kept_moments(optimizer, weights)
    assert not list(misfits(kept, expected))
    for name in kept:
        wrong = {**kept, name: kept[name][:-1]}
        assert list(misfits(wrong, expected))
    if kept["momentum"][0] is not None:
        assert list(misfits({**kept, "momentum": [torch.zeros(2)] * 3}, expected))
    if "steps" in kept:
        assert list(misfits({**kept, "steps": ["1"] * 3}, expected))


@pytest.mark.parametrize(
    ("name", "value"), [("steps", None), ("steps", -1), ("steps", 0), ("second_moment", None)]
)
def test_moments_that_no_run_of_adam_kept_are_told(name: str, value: object) -> None:
    optimizer, weights = made(SETTINGS[2])
    for number in range(5):
        step(optimizer, weights, number)
    kept = kept_moments(optimizer, weights)
    assert bad_moments(optimizer, kept) is None
    kept[name][1] = value
    assert "weight 1" in str(bad_moments(optimizer, kept))
