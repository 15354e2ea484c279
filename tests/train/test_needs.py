"""A method that needs features or raw logits gets them, or says at once what to do."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import kdcache
from kdcache.classroom import Needs
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.errors import MissingTargets, UsageError
from kdcache.mentors import Mentor
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly
from kdcache.store import TargetStore
from kdcache.stream import TargetStream
from kdcache.train import TrainConfig
from kdcache.train.run_source import choose_source
from tests.train.comparing import same_weights, timeless
from tests.train.conftest import Run

HINTS = {"method": "amtml", "switches": {"hint_weight": 1.0}}
ALL = Needs(mentor_features=True, raw_logits=True)
CPU = torch.device("cpu")


def test_hints_from_the_store_are_those_of_live_mentors_bit_for_bit(
    train: Run,
    tmp_path: Path,
    store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    given = {name: str(digits_checkpoint(name)) for name in ("r14", "r8")}
    # Live mentors need no more of a store than its logits.
    online = list(train("online", targets="online", checkpoints=given, **HINTS))
    with pytest.raises(MissingTargets, match="no features of r14, r8 in any of its views") as error:
        next(train("stored", **HINTS))
    assert not (tmp_path / "stored").exists()
    command = shlex.split(str(error.value).split("with: ")[1])
    words = [*command[1:], "--checkpoint", f"r14={given['r14']}"]
    done = CliRunner().invoke(main, [*words, "--checkpoint", f"r8={given['r8']}"])
    assert done.exit_code == 0, done.output  # what the message says, and no more
    stored = list(train("stored", **HINTS))
    assert timeless(stored) == timeless(online)
    assert same_weights(tmp_path / "stored", tmp_path / "online")
    list(train("without", method="amtml"))
    assert not same_weights(tmp_path / "stored", tmp_path / "without")


def test_a_run_gets_what_its_loss_needs_and_no_more(
    store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    kdcache.precompute_targets(
        digits, digits_mentors, store=store.root, features=True, keep_logsumexp=True
    )
    config = TrainConfig(dataset="digits", samples=100, store=str(store.root), method="average")
    plain, stored = (choose_source(config, CPU, needs) for needs in (Needs(), ALL))
    assert (plain.feature_widths, stored.feature_widths) == (None, (64, 64))
    assert isinstance(stored.source, TargetStream)
    assert stored.source.kinds == ("logits", "logsumexp", "features")
    # Another run than one on logits alone, so that none goes on as the other.
    taught = [dict(source.taught_by) for source in (plain, stored)]
    assert taught[0].pop("targets") != taught[1].pop("targets")
    assert taught[0].items() < taught[1].items()
    assert {"mentor r8 features", "mentor r14 logsumexp"} < stored.taught_by.keys()

    given = {name: str(digits_checkpoint(name)) for name in ("r14", "r8")}
    live = choose_source(replace(config, targets="online", checkpoints=given), CPU, ALL)
    assert isinstance(live.source, OnlineTargets)
    assert (live.source.features, live.source.raw_logits) == (True, True)
    index = digits.index_N[:7]
    with live.source.view(1) as ours, stored.source.view(1) as theirs:
        a, b = ours.gather_targets(index), theirs.gather_targets(index)
    assert a.logits is not None
    assert b.logits is not None
    assert torch.equal(a.logits, b.logits)

    labels = choose_source(replace(config, method="ce"), CPU, Needs(least_mentors=0))
    assert isinstance(labels.source, LabelsOnly)
    assert labels.feature_widths is None


def test_positions_of_teachers_need_an_order_of_mentors(train: Run, tmp_path: Path) -> None:
    by_rank = {"weighting": "rank", "teachers": (0,)}
    with pytest.raises(UsageError, match="counts positions in --mentors"):
        next(train("run", switches=by_rank))
    assert not (tmp_path / "run").exists()
    losses = [
        next(train(name, switches={**by_rank, "teachers": teachers}, mentors=order))["train_loss"]
        for name, teachers, order in (
            ("run", (0,), ("r8", "r14")),
            ("turned", (1,), ("r14", "r8")),
            ("other", (1,), ("r8", "r14")),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # sums in another order
    assert losses[0] != pytest.approx(losses[2], rel=1e-2)
