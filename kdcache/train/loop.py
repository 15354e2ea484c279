"""The one training loop: batches with targets in, records out; resumable at any step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from kdcache import philox
from kdcache.classroom import ChangesByEpoch, HasOwnRates, LossOutput, MentorLoss
from kdcache.devices import precision_context, repeatable_convolutions
from kdcache.errors import RunFailed, Stopped
from kdcache.loader import Batch, ReplayLoader
from kdcache.models.pooled_features import FeatureTap
from kdcache.train.checkpoint_file import unusable
from kdcache.train.compiling import begin_step, compiled
from kdcache.train.evaluation import Evaluator
from kdcache.train.finite import FiniteWatch
from kdcache.train.optimizer import (
    bad_moments,
    expected_moments,
    kept_moments,
    make_optimizer,
    restore_moments,
)
from kdcache.train.run_folder import RunFolder
from kdcache.train.run_state import bad_records, misfits
from kdcache.train.schedule import learning_rate
from kdcache.train.tally import Tally
from kdcache.train.train_config import TrainConfig

Progress = Callable[[int, int], None]  # (steps done, steps an epoch)


class TrainingLoop:
    """A student, its optimiser, where its loader stands, the records so far, the epoch's sums.

    A loss that is a `torch.nn.Module` may learn too: its parameters are trained beside the
    student's, without weight decay and at rates of its own where it has such, and its state is part
    of every checkpoint. So is `identity` (`run_identity`): a checkpoint of another run is not gone
    on with.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        network: torch.nn.Module,
        loader: ReplayLoader,
        loss: MentorLoss,
        evaluator: Evaluator,
        folder: RunFolder,
        identity: str,
    ) -> None:
        self.config, self.loader, self.loss, self.evaluator, self.folder = (
            config, loader, loss, evaluator, folder,
        )  # fmt: skip
        self._identity = identity
        self.device = loader.device
        self._memory_format = (
            torch.channels_last if config.channels_last else torch.contiguous_format
        )
        self.network = network.to(device=self.device, memory_format=self._memory_format)  # type: ignore[call-overload]
        self._learning_loss = loss.to(self.device) if isinstance(loss, torch.nn.Module) else None
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters()), "own": None}]
        if self._learning_loss is not None:
            # Weight decay is the student's; how a method regularises its own is its loss's affair.
            groups += [
                {"params": [weights], "own": name, "weight_decay": 0.0}
                for name, weights in self._learning_loss.named_parameters()
            ]
        self._needs, self._tap = loss.needs, None
        if self._needs.student_features:
            self._tap = FeatureTap(self.network, loader.dataset.num_classes)
        self._forward: Callable[..., torch.Tensor] = self.network
        self._call_loss: Callable[..., LossOutput] = loss
        if config.compile:
            self._forward = compiled(self.network, self.device)
            if not isinstance(loss, ChangesByEpoch):  # it would be compiled anew each time
                self._call_loss = compiled(loss, self.device)
        self._optimizer = make_optimizer(groups, config)
        self._trained = [weight for group in groups for weight in group["params"]]
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16" and self.device.type == "cuda"
        )
        self._epoch = 0
        self._seconds = 0.0
        self._tally = Tally(
            loader.source.mentors,
            self.device,
            num_classes=loader.dataset.num_classes if config.per_class else None,
        )
        self._watch = FiniteWatch(self.device, self._not_finite)
        self.records: list[dict[str, Any]] = []

    @property
    def epochs_done(self) -> int:
        """How many epochs are behind."""
        return self._epoch

    def restore(self, state: object) -> None:
        """Goes on from a checkpoint's state. Raises CheckpointError when it does not fit."""
        self._require_fit(state)
        assert isinstance(state, dict)
        _load(self.network, state["network"])
        if self._learning_loss is not None:
            _load(self._learning_loss, state["loss"])
        # Moments alone: rates and decay are the config's, whatever a file says.
        restore_moments(self._optimizer, self._trained, state)
        self._scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["loader"])
        self._epoch, self._seconds = state["epoch"], state["seconds"]
        self._tally.sums.copy_(state["tally"])
        self.records = state["records"]

    def run(self, should_stop: Callable[[], bool], progress: Progress) -> Iterator[dict[str, Any]]:
        """Trains to the last epoch, yielding each epoch's record once it is on disk.

        Raises Stopped (after saving a checkpoint in mid-epoch) when asked to stop, RunFailed when
        logits, loss or weights are no longer finite; no checkpoint is written then.
        """
        while self._epoch < self.config.epochs:
            record = self._run_epoch(should_stop, progress)
            self.records.append(record)
            self.folder.append_record(record)
            self.folder.save_checkpoint(self._state())
            yield record

    def _run_epoch(self, should_stop: Callable[[], bool], progress: Progress) -> dict[str, Any]:
        epoch = self._epoch
        rate = learning_rate(self.config.schedule, self.config.lr, epoch, self.config.epochs)
        if isinstance(self.loss, ChangesByEpoch):
            self.loss.set_epoch(epoch)
        own = self.loss.learning_rate_factors() if isinstance(self.loss, HasOwnRates) else {}
        for group in self._optimizer.param_groups:
            name = group["own"]
            group["lr"] = self.config.lr * own[name] if name in own else rate
        self.loader.set_epoch(epoch)
        self.network.train()
        started = time.perf_counter() - self._seconds
        for batch in self.loader:
            self._step(batch)
            self._seconds = time.perf_counter() - started
            done = self.loader.state_dict()["done"]
            progress(done, len(self.loader))
            if should_stop():
                self._stop()
            # Not after the last step: the epoch's own checkpoint follows.
            every = self.config.checkpoint_every
            if every is not None and done % every == 0 and done < len(self.loader):
                self._require_finite(done)
                self.folder.save_checkpoint(self._state())
        self._require_finite(len(self.loader))
        record = {
            "epoch": epoch,
            "view": self.loader.source.view_of_epoch(epoch),
            "lr": rate,
            **self._tally.record(),
            **{f"test_{name}": None for name in self.evaluator.names},
            "seconds": time.perf_counter() - started,
        }
        if (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs:
            found = self.evaluator(self.network, self.device, self.config.precision)
            record.update({f"test_{name}": found[name] for name in self.evaluator.names})
        self._epoch, self._seconds = epoch + 1, 0.0
        self._tally.clear()
        return record

    def _step(self, batch: Batch) -> None:
        images = batch.images.contiguous(memory_format=self._memory_format)
        if self.config.compile:
            begin_step(self.device)
        self._optimizer.zero_grad(set_to_none=True)
        with repeatable_convolutions(self.device, self.config.precision):
            with self._addressed_randomness(batch):
                with (
                    precision_context(self.device, self.config.precision),
                    self._tap or nullcontext(),
                ):
                    output = self._forward(images)
                out = self._call_loss(output, batch.labels, batch.primary, **self._given(batch))
            self._watch.see(self.loader.state_dict()["done"], output, out.total)
            self._scaler.scale(out.total).backward()  # type: ignore[no-untyped-call]
        self._tally.add(out, batch.labels, self._loss_scale())
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def _loss_scale(self) -> torch.Tensor | None:
        """What the backward pass was scaled by; on the device, which `get_scale` would wait for."""
        if not self._scaler.is_enabled():
            return None
        return self._scaler.scale(torch.ones((), device=self.device))

    def _given(self, batch: Batch) -> dict[str, Any]:
        """The further tensors that the loss needs."""
        given: dict[str, Any] = {}
        if self._tap is not None:
            given["student_features_BF"] = self._tap.features_BF
        if self._needs.mentor_features:
            given["mentor_features"] = batch.features
        return given

    @contextmanager
    def _addressed_randomness(self, batch: Batch) -> Iterator[None]:
        """Dropout's numbers as a function of (seed, epoch, first sample): no state to resume."""
        first = batch.index[:1].numpy()
        word = philox.words(self.config.seed, philox.Purpose.DROPOUT, first, self._epoch)[0, 0]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # Not torch.manual_seed, which reseeds every GPU where this one's state is saved.
            torch.default_generator.manual_seed(int(word))
            if devices:
                torch.cuda.manual_seed(int(word))
            yield

    def _require_finite(self, step: int) -> None:
        """Raises RunFailed unless all that a checkpoint would hold is finite; waits for the device.

        A weight can be lost in a step whose loss was finite, and a step before anyone sees it.
        """
        parts = [self.network, self._learning_loss]
        states = [part.state_dict() for part in parts if part is not None]
        self._watch.settle(step, [weight for state in states for weight in state.values()])

    def _not_finite(self, step: int, what: str) -> RunFailed:
        kept = "nothing of it was saved"
        if self.folder.checkpoint.exists():
            kept = f"the last good checkpoint is kept in {self.folder.root}"
        return RunFailed(
            f"{what} became NaN or infinite in step {step} of {len(self.loader)} of epoch "
            f"{self._epoch + 1}/{self.config.epochs}; {kept}. Try a lower --lr, or --precision "
            "fp32, and another --out"
        )

    def _stop(self) -> None:
        self._require_finite(self.loader.state_dict()["done"])
        self.folder.save_checkpoint(self._state())
        raise Stopped(
            f"stopped in epoch {self._epoch}; everything up to the last step is kept in "
            f"{self.folder.root}. Run the same command again to go on"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "run": self._identity,
            "epoch": self._epoch,
            "seconds": self._seconds,
            "records": self.records,
            "tally": self._tally.sums,
            "loader": self.loader.state_dict(),
            "network": self.network.state_dict(),
            "loss": {} if self._learning_loss is None else self._learning_loss.state_dict(),
            **kept_moments(self._optimizer, self._trained),
            "scaler": self._scaler.state_dict(),
        }

    def _require_fit(self, state: object) -> None:
        expected = {**self._state(), **expected_moments(self._optimizer, self._trained)}
        expected.pop("records")
        if not isinstance(state, dict):
            raise unusable(self.folder.checkpoint, f"it holds a {type(state).__name__}")
        run = state.get("run")
        if isinstance(run, str) and run != self._identity:
            reason = f"it is of the run {run[:16]}, expected {self._identity[:16]}"
            raise unusable(self.folder.checkpoint, reason)
        found = {key: value for key, value in state.items() if key != "records"}
        wrong = next(misfits(found, expected), None)
        if wrong is None and not (
            0 <= state["epoch"] == state["loader"]["epoch"] <= self.config.epochs
            and 0 <= state["loader"]["done"] <= len(self.loader)
        ):
            wrong = f"it stands in epoch {state['epoch']} at {state['loader']}"
        if wrong is None:
            wrong = bad_moments(self._optimizer, state)
        if wrong is None:
            wrong = next(bad_records(state.get("records"), state["epoch"]), None)
        if wrong is not None:
            raise unusable(self.folder.checkpoint, wrong)


def _load(module: torch.nn.Module, state: dict[str, Any]) -> None:
    own = module.state_dict()  # an OrderedDict that keeps the modules' version numbers
    own.update(state)
    module.load_state_dict(own)
