"""Everything that decides a student's training run; round-trips through TOML."""

import math
from dataclasses import dataclass, field
from typing import Any

from kdcache.devices import PRECISIONS
from kdcache.epoch_order import require_window
from kdcache.errors import UsageError, unknown_name
from kdcache.heatmaps import DARK, QUARTER
from kdcache.train.schedule import SCHEDULES

TARGETS = ("cache", "online")
OPTIMIZERS = ("sgd", "adam")
DECODERS = (QUARTER, DARK)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Defaults are the released CIFAR-100 recipe (arXiv 2409.20237); those of poses are in
    `task_defaults`.

    `dataset`, `mentors`, `recipe`, `view_seed`, `views`, `samples`: None means what the run in the
    folder has, else what the store says; without a store cifar100, crop-flip with seed 0, a new
    view every epoch, every sample. `recipe_options`: parameters of the recipe in place of the
    dataset's, such as height and width of people's views. `views`: the first so many views, or a
    list of them. `switches`: the method's own options. `checkpoint_every`: steps between
    checkpoints within an epoch; None: only after each. `compile`: student and loss by
    torch.compile. `per_class`: records tell of every class, too. `checkpoints`: mentor name ->
    file, for `targets="online"`. `window`: samples of which targets are in memory at once, which
    decides their order; None: as the run folder has it, else whole views. `momentum`: of Adam the
    decay of its first moment. `decoder`, `flip_test`: how people's joints are found in evaluations.
    `out`: the run folder; None: runs/<student>-<method>-s<seed>.
    """

    student: str = "r20"
    dataset: str | None = None
    data_dir: str | None = None
    samples: int | None = None
    store: str | None = None
    mentors: tuple[str, ...] | None = None
    method: str = "classroom"
    switches: dict[str, Any] = field(default_factory=dict)
    targets: str = "cache"
    checkpoints: dict[str, str] = field(default_factory=dict)
    recipe: str | None = None
    view_seed: int | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)
    views: int | tuple[int, ...] | None = None
    window: int | None = None
    epochs: int = 240
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.05
    schedule: str = "released"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    eval_every: int = 1
    checkpoint_every: int | None = None
    per_class: bool = False
    decoder: str = QUARTER
    flip_test: bool = False
    device: str = "auto"
    out: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
            ("decoder", self.decoder, DECODERS),
            ("kind of targets", self.targets, TARGETS),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("eval_every", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise UsageError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        require_window(self.window, self.batch_size)
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise UsageError(
                f"checkpoint_every must be at least 1 step, got {self.checkpoint_every}; leave it "
                "out for a checkpoint after each epoch only"
            )
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr must be a number above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum must lie in 0 to 1 (without 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay must be 0 or more, got {self.weight_decay}")

    @property
    def run_folder(self) -> str:
        """Where the run is kept."""
        name = self.student.replace(":", ".")
        return self.out or f"runs/{name}-{self.method}-s{self.seed}"
