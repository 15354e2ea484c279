"""checkpoint.pt: damaged, foreign or hostile, it is one clear error and never believed."""

import io
import math
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.errors import CheckpointError, Stopped, UsageError
from kdcache.store import TargetStore
from kdcache.train.checkpoint_file import load_state, save_state
from kdcache.train.run_folder import RunFolder, run_identity
from kdcache.train.train_config import TrainConfig
from tests.train.comparing import same_run
from tests.train.conftest import Run
from tests.train.test_resuming import DROPOUT, stop_at

State = dict[str, Any]


@pytest.fixture
def stopped(train: Run, tmp_path: Path) -> Callable[..., RunFolder]:
    """A run of the dropout network, stopped in its second epoch."""

    def run() -> RunFolder:
        with pytest.raises(Stopped):
            list(train("run", student=DROPOUT, should_stop=stop_at(9)))
        return RunFolder(tmp_path / "run")

    return run


def state_of(folder: RunFolder) -> State:
    state = folder.load_checkpoint()
    assert isinstance(state, dict)
    return state


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = {"weights": torch.arange(40.0), "epoch": 3, "records": [{"loss": 0.1}]}
    save_state(path, state)
    whole = path.read_bytes()
    loaded = load_state(path)
    assert isinstance(loaded, dict)
    assert torch.equal(loaded["weights"], state["weights"])  # type: ignore[arg-type]
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="do not have the SHA-256"):
            load_state(path)
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="do not have the SHA-256"):
            load_state(path)


def test_plain_torch_reads_it(tmp_path: Path) -> None:
    save_state(tmp_path / "checkpoint.pt", {"weights": torch.ones(3)})
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["weights"].sum() == 3


def test_a_damaged_run_says_what_to_do_and_that_works(
    stopped: Callable[..., RunFolder], train: Run, tmp_path: Path
) -> None:
    list(train("undisturbed", student=DROPOUT))
    folder = stopped()
    content = bytearray(folder.checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    folder.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="delete it and give the same command again"):
        next(train("run", student=DROPOUT))
    folder.checkpoint.unlink()
    list(train("run", student=DROPOUT))
    assert same_run(folder.root, tmp_path / "undisturbed")


def with_checksum(path: Path, archive: bytes) -> None:
    """Writes an archive of any content as a checkpoint of ours."""
    import hashlib

    digest = hashlib.sha256(archive).hexdigest()
    path.write_bytes(archive + f"\nkdcache checkpoint, SHA-256 {digest}\n".encode())


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("the checkpoint ran its code",))


def test_archives_of_others_are_refused(
    stopped: Callable[..., RunFolder], train: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped()
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    for content, match in (
        (buffer.getvalue(), "cannot be read: UnpicklingError"),
        (packed.getvalue(), "it is compressed"),
        (pickle.dumps({"epoch": 1}), "cannot be read: BadZipFile"),
        (b"", "cannot be read: BadZipFile"),
    ):
        with_checksum(folder.checkpoint, content)
        with pytest.raises(CheckpointError, match=match):
            next(train("run", student=DROPOUT))
    assert "ran its code" not in capsys.readouterr().out


def _set(*path: Any, to: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = to

    return change


def _hostile_metadata(state: State) -> None:
    hostile = OrderedDict(state["network"])
    hostile._metadata = 5  # type: ignore[attr-defined]
    state["network"] = hostile


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("tally"), "state lacks 'tally'"),
        (lambda state: state.pop("run"), "state lacks 'run'"),
        (_set("run", to=torch.ones(2)), "state.run is a float32 tensor"),
        (lambda state: state.pop("records"), "of type NoneType as records"),
        (_set("extra", to=1), "has 'extra', which this run does not know"),
        (_set("epoch", to="1"), "state.epoch is of type str, expected of type int"),
        (_set("epoch", to=True), "state.epoch is of type bool"),
        (_set("epoch", to=2), "stands in epoch 2"),
        (_set("loader", "done", to=-1), "stands in epoch 1"),
        (_set("loader", "done", to=7), "stands in epoch 1"),
        (_set("loader", to=[1, 2]), "state.loader is a list of 2, expected a dict"),
        (_set("seconds", to=None), "state.seconds is of type NoneType"),
        (_set("network", "1.weight", to=torch.ones(3)), r"shape \(3,\), expected .*\(32, 192\)"),
        (_set("network", "1.weight", to=torch.ones(32, 192).double()), "a float64 tensor"),
        (_set("network", "1.weight", to=[0.0]), "a list of 1, expected a float32 tensor"),
        (_set("network", "1.weight", to=torch.ones(32, 192).to_sparse()), "expected a float32"),
        (lambda state: state["network"].pop("1.weight"), "state.network lacks '1.weight'"),
        (_set("network", 5, to=torch.ones(1)), "has 5, which this run does not know"),
        (_set("momentum", to=[]), "state.momentum is a list of 0, expected a list of 4"),
        (_set("momentum", 0, to=torch.ones(2)), r"state.momentum\[0\] is a float32"),
        (_set("tally", to=torch.ones(3, dtype=torch.float64)), "state.tally is a float64 tensor"),
        (_set("loss", to={"theta": torch.ones(1)}), "state.loss has 'theta'"),
        (_set("records", to=[]), "a list of 0 as records, expected those of 1 epochs"),
        (_set("records", 0, to={"epoch": 4}), "its record 0 is not one of epoch 0"),
        (_set("records", 0, "more", to=torch.ones(1)), "its record 0 is not one of epoch 0"),
        (_set("records", 0, "test_top1", to="much"), "its record 0 lacks numbers"),
        (_set("records", 0, "seconds", to="long"), "its record 0 lacks numbers"),
    ],
)
def test_content_that_does_not_fit_is_refused(
    stopped: Callable[..., RunFolder], train: Run, change: Callable[[State], None], match: str
) -> None:
    folder = stopped()
    state = state_of(folder)
    change(state)
    save_state(folder.checkpoint, state)
    records = folder.metrics.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        next(train("run", student=DROPOUT))
    assert folder.metrics.read_bytes() == records


def test_a_checkpoint_of_another_run_is_refused(
    stopped: Callable[..., RunFolder], train: Run, tmp_path: Path
) -> None:
    folder = stopped()
    for name, options in (
        ("other rate", {"seed": 2, "lr": 0.2}),
        ("other switches", {"switches": {"granularity": "batch"}}),
        ("other mentors", {"mentors": ("r14",)}),
    ):
        with pytest.raises(Stopped):
            list(train(name, **{"student": DROPOUT, **options}, should_stop=stop_at(9)))
        other = RunFolder(tmp_path / name)
        shutil.copy(folder.checkpoint, other.checkpoint)
        records = other.metrics.read_bytes()
        with pytest.raises(
            CheckpointError, match=r"of another run .*\(it is of the run \w{16}, exp"
        ):
            next(train(name, **{"student": DROPOUT, **options}))
        assert other.metrics.read_bytes() == records


def test_a_checkpoint_fits_wherever_its_run_goes_on(
    stopped: Callable[..., RunFolder], train: Run, store: TargetStore, tmp_path: Path
) -> None:
    list(train("undisturbed", student=DROPOUT))
    folder = stopped()
    shutil.move(store.root, tmp_path / "moved")
    shutil.move(folder.root, tmp_path / "elsewhere")
    free = {"store": str(tmp_path / "moved"), "checkpoint_every": 2, "device": "cpu"}
    told: list[str] = []
    list(train("elsewhere", student=DROPOUT, **free, notify=told.append))
    assert told == [f"going on in {tmp_path / 'elsewhere'} after 1 of 3 epochs"]
    assert same_run(tmp_path / "elsewhere", tmp_path / "undisturbed")


def test_what_decides_a_run_identifies_it() -> None:
    config = TrainConfig(student="r8", switches={"temperature": 4}, weight_decay=0)
    ours = run_identity(config, {"fingerprint": "a"})
    free = replace(config, out="/b", data_dir="/c", device="cuda", store="/d", checkpoint_every=2)
    assert run_identity(free, {"fingerprint": "a"}) == ours
    same = replace(config, switches={"temperature": 4.0}, weight_decay=0.0)
    assert run_identity(same, {"fingerprint": "a"}) == ours
    assert run_identity(config, {"fingerprint": "b"}) != ours
    for other in (
        replace(config, lr=0.2),
        replace(config, seed=1),
        replace(config, views=3),
        replace(config, switches={"temperature": math.inf}),
    ):
        assert run_identity(other, {"fingerprint": "a"}) != ours


def test_another_type_than_a_dict_is_refused(stopped: Callable[..., RunFolder], train: Run) -> None:
    folder = stopped()
    archive = io.BytesIO()
    torch.save(torch.ones(3), archive)
    with_checksum(folder.checkpoint, archive.getvalue())
    with pytest.raises(CheckpointError, match="it holds a Tensor"):
        next(train("run", student=DROPOUT))


def test_what_a_checkpoint_says_beside_its_values_is_not_used(
    stopped: Callable[..., RunFolder], train: Run, tmp_path: Path
) -> None:
    list(train("undisturbed", student=DROPOUT))
    folder = stopped()
    state = state_of(folder)
    _hostile_metadata(state)
    save_state(folder.checkpoint, state)
    list(train("run", student=DROPOUT))
    assert same_run(folder.root, tmp_path / "undisturbed")


def test_records_come_from_the_checkpoint_whatever_became_of_their_file(
    stopped: Callable[..., RunFolder], train: Run, tmp_path: Path
) -> None:
    list(train("undisturbed", student=DROPOUT))
    for damage in (b"", b"\xff\xfe{", b'{"epoch": 0}\n{"epoch": 0}\n{"epo', None):
        folder = stopped()
        if damage is None:
            folder.metrics.unlink()
        else:
            folder.metrics.write_bytes(damage)
        list(train("run", student=DROPOUT))
        assert same_run(folder.root, tmp_path / "undisturbed")
        for file in folder.root.iterdir():
            file.unlink()


def test_a_run_without_its_config_says_so(stopped: Callable[..., RunFolder], train: Run) -> None:
    folder = stopped()
    folder.config.write_bytes(folder.config.read_bytes()[:-30] + b"= =")
    with pytest.raises(UsageError, match=r"is not TOML(.|\n)*put it back, or choose another --out"):
        next(train("run", student=DROPOUT))
    folder.config.unlink()
    with pytest.raises(UsageError, match=r"cannot read the config .* put it back"):
        next(train("run", student=DROPOUT))
