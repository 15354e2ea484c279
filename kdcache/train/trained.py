"""A trained network from disk: a finished student, a run that goes on, a mentor's checkpoint.

    file = find_trained("runs/r20-classroom-s0", unfinished=True)
    trained = file.load(dataset)
    trained.network, trained.preprocessing

What a file says of itself is used where nothing else is given: our safetensors carry network,
dataset and preprocessing; a run's checkpoint.pt has its config.toml beside it; a mentor's are its
file name and its sidecar. A `module:factory` runs code, so it is only taken from the caller.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcache.checkpoints import fit_weights, load_weights, read_metadata
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.errors import CheckpointError
from kdcache.factories import require_named
from kdcache.mentor_library import sidecar_preprocessing
from kdcache.models import build_network, long_name
from kdcache.train.checkpoint_file import load_state, unusable
from kdcache.train.run_folder import RunFolder
from kdcache.untrusted import parse_json


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A network with its weights, on the CPU, and what it is.

    `epochs` and `steps`: how far a run had come, in whole epochs and steps of the next one; None
    for a file that does not say.
    """

    network: torch.nn.Module
    architecture: str
    preprocessing: Preprocessing
    epochs: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedFile:
    """Where weights are, and what the file says of them; nothing of theirs is read yet.

    `stated`: architecture, dataset and preprocessing (JSON text), as far as they are said.
    `is_run`: a run's checkpoint.pt, with everything else that a run keeps.
    """

    path: Path
    stated: Mapping[str, str] = field(default_factory=dict)
    is_run: bool = False

    def architecture(self, given: str | None) -> str:
        """The network's long name: `given`, else what the file says, else its name.

        Raises UsageError for a name of no network, or one that only the file gives and that would
        run code.
        """
        theirs = self.stated.get("architecture") or self.path.stem
        return long_name(given or require_named(theirs, option="--network", origin=self.path))

    def sides(self, images: ImageDataset, given: Mapping[str, Any]) -> dict[str, int]:
        """Height and width of the views of people: as given, else as the file says, else the
        dataset's. Raises CheckpointError for a file that states no number."""
        found: dict[str, int] = {}
        for side in ("height", "width"):
            stated = given.get(side, self.stated.get(side, images.view_parameters[side]))
            try:
                found[side] = int(stated)
            except (TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{self.path} states the {side} of its views as {str(stated)[:40]!r}, which is "
                    f"no number. Give it with --recipe-option {side}=256"
                ) from error
        return found

    def load(self, images: ImageDataset, network: str | None = None) -> Trained:
        """The network for `images`, named by `network` where the file shall not decide.

        Raises UsageError as `architecture`; CheckpointError for weights that are damaged, of
        another network or class count, or not finite, and for a preprocessing of other channels.
        """
        channels = len(images.preprocessing.mean)
        architecture = self.architecture(network)
        preprocessing = images.preprocessing
        if "preprocessing" in self.stated:
            preprocessing = self._stated_preprocessing(channels)
        elif not self.is_run:
            preprocessing = sidecar_preprocessing(self.path, channels) or preprocessing
        module = build_network(architecture, images.num_classes)
        epochs = steps = None
        if self.is_run:
            epochs, steps = self._load_run(module)
        else:
            load_weights(module, self.path)
        return Trained(
            network=module,
            architecture=architecture,
            preprocessing=preprocessing,
            epochs=epochs,
            steps=steps,
        )

    def _load_run(self, module: torch.nn.Module) -> tuple[int, int]:
        """The student of a run's last saved step into `module`; its epochs and steps."""
        state = load_state(self.path)
        if not (isinstance(state, dict) and isinstance(state.get("loader"), dict)):
            raise unusable(self.path, "it is no run's state")
        epochs, steps, weights = (
            state.get("epoch"),
            state["loader"].get("done"),
            state.get("network"),
        )
        if not (type(epochs) is type(steps) is int and isinstance(weights, dict)):
            raise unusable(self.path, "it does not say how far the run had come")
        fit_weights(module, self.path, weights)
        return epochs, steps

    def _stated_preprocessing(self, channels: int) -> Preprocessing:
        try:
            stated = parse_json(self.stated["preprocessing"].encode())
            return Preprocessing.from_description(stated, channels)
        except ValueError as error:
            raise CheckpointError(
                f"{self.path} states its preprocessing wrongly ({error}). Take it from where it "
                "was made"
            ) from error


def find_trained(checkpoint: str | os.PathLike[str], *, unfinished: bool = False) -> TrainedFile:
    """What `checkpoint` names: a run folder, a file of one, or any weights that mentors come in.

    A run folder stands for its finished student; with `unfinished` for its checkpoint.pt, the
    student of its last saved step, where it has one. Raises CheckpointError when there is neither,
    and for a file that is missing or cannot hold weights.
    """
    path = Path(checkpoint).expanduser()
    folder = RunFolder(path)
    if folder.config.exists():
        path = folder.student
        if unfinished and folder.checkpoint.exists():
            path = folder.checkpoint
        elif not path.exists():
            raise CheckpointError(
                f"{folder.root} is a run that has not saved anything yet; wait for its first epoch"
                if unfinished
                else f"{folder.root} is a run that is not finished; give its train command again"
            )
    folder = RunFolder(path.parent)
    if path.name == folder.checkpoint.name and folder.config.exists():
        config = read_toml(folder.config)
        stated = {"architecture": config.get("student"), "dataset": config.get("dataset")}
        options = config.get("recipe_options")
        if isinstance(options, dict):
            stated |= {side: str(options[side]) for side in ("height", "width") if side in options}
        kept = {key: value for key, value in stated.items() if isinstance(value, str)}
        return TrainedFile(path=path, stated=kept, is_run=True)
    return TrainedFile(path=path, stated=read_metadata(path))
