"""Learning rates: the released recipe's numbers, stretched to other lengths."""

import pytest

from kdcache.errors import UsageError
from kdcache.train.schedule import learning_rate


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.05),
        (60, 0.03),
        (119, 0.05 - 0.04 * 119 / 120),
        (120, 0.01),
        (149, 0.01),
        (150, 0.001),
        (180, 0.0001),
        (209, 0.0001),
        (210, 0.00001),
        (239, 0.00001),
    ],
)
def test_released_schedule_at_its_own_length(epoch: int, rate: float) -> None:
    assert learning_rate("released", 0.05, epoch, 240) == pytest.approx(rate, rel=1e-9)


def test_released_schedule_stretches() -> None:
    for epoch in range(24):
        assert learning_rate("released", 1, epoch, 24) == pytest.approx(
            learning_rate("released", 1, 10 * epoch, 240)
        )


def test_cosine_falls_from_the_base_rate_towards_zero() -> None:
    rates = [learning_rate("cosine", 0.1, epoch, 10) for epoch in range(10)]
    assert rates[0] == 0.1
    assert rates[5] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_amtml_drops_twice_in_its_second_phase() -> None:
    for epochs in (280, 28):
        rates = [learning_rate("amtml", 0.1, epoch, epochs) for epoch in range(epochs)]
        tenth = epochs // 28
        expected = [0.1] * 18 * tenth + [0.01] * 5 * tenth + [0.001] * 5 * tenth
        assert rates == pytest.approx(expected)


def test_unknown_schedule_names_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown schedule 'cosin'. Did you mean cosine"):
        learning_rate("cosin", 0.1, 0, 10)


@pytest.mark.parametrize(
    ("schedule", "epochs", "drops"), [("steps-210", 210, (170, 200)), ("steps-140", 140, (90, 120))]
)
def test_the_schedules_of_poses_drop_twice(
    schedule: str, epochs: int, drops: tuple[int, int]
) -> None:
    first, second = drops
    for epoch, factor in (
        *((0, 1), (first - 1, 1), (first, 0.1), (second - 1, 0.1)),
        *((second, 0.01), (epochs - 1, 0.01)),
    ):
        assert learning_rate(schedule, 1e-3, epoch, epochs) == pytest.approx(1e-3 * factor)
        assert learning_rate(schedule, 1e-3, 10 * epoch, 10 * epochs) == pytest.approx(
            1e-3 * factor
        )
