"""Pickles made to mislead: nothing they name is called, nothing they claim is believed."""

import pickle
import pickletools
import struct
from pathlib import Path

import pytest
import torch

from kdcache.checkpoints import read_state_dict
from tests.checkpoints.made import (
    MIB,
    REBUILD,
    STORAGE,
    laughs,
    number,
    one,
    stream,
    tensor,
    text,
    with_pickle,
    zipped,
)
from tests.checkpoints.refusals import refused

CALLS = {
    "call": b"cposix\nmkdir\nX\x05\x00\x00\x00trace\x85R",
    "stack global": text("posix") + text("mkdir") + b"\x93" + text("trace") + b"\x85R",
    "newobj": b"cposix\nmkdir\n" + text("trace") + b"\x85\x81",
    "inst": b"(" + text("trace") + b"iposix\nmkdir\n",
    "obj": b"(cposix\nmkdir\n" + text("trace") + b"o",
    "dotted": text("torch") + text("_utils.os.mkdir") + b"\x93" + text("trace") + b"\x85R",
    "torch.load inside": b"ctorch.storage\n_load_from_bytes\n" + b"C\x01a\x85R",
    "getattr": b"c__builtin__\ngetattr\n" + STORAGE + text("x") + b"\x86R",
    "extension": b"\x82\x01)R",
    "build": b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"cposix\nmkdir\nsb",
    "options": b"cargparse\nNamespace\n)\x81}" + text("x") + b"cposix\nmkdir\nsb",
    "set of names": b"cnumpy\nos.mkdir\n" + text("trace") + b"\x85R",
}
PICKLES: dict[str, tuple[bytes, str]] = {
    **{
        f"runs: {kind}": (one(steps), "asks to run|which weights never need")
        for kind, steps in CALLS.items()
    },
    "storage of a terabyte": (one(tensor(2**38)), r"claims 1,099,511,627,776 bytes and has 16"),
    "storage beyond 64 bits": (one(tensor(2**100)), "claims .* bytes and has 16"),
    "negative storage": (one(tensor(-4)), "claims -16 bytes and has 16"),
    "smaller storage": (one(tensor(3, (3,))), "claims 12 bytes and has 16"),
    "outside": (one(tensor(size=(5,))), r"a tensor of shape \(5,\) lies outside its storage"),
    "outside by stride": (one(tensor(stride=(2,))), "lies outside its storage"),
    "outside by offset": (one(tensor(offset=1)), "lies outside its storage"),
    "negative offset": (one(tensor(offset=-1)), "describes a tensor's shape wrongly"),
    "negative size": (one(tensor(size=(-4,))), "describes a tensor's shape wrongly"),
    "negative stride": (one(tensor(stride=(-1,))), "describes a tensor's shape wrongly"),
    "huge size": (one(tensor(size=(2**70,), stride=(0,))), "describes a tensor's shape wrongly"),
    "large by strides": (one(tensor(size=(2**50,), stride=(0,))), "not plain tensors: w"),
    "two shapes": (one(tensor(size=(2, 2))), "describes a tensor's shape wrongly"),
    "200 dimensions": (one(tensor(size=(1,) * 200, stride=(1,) * 200)), "shape wrongly"),
    "no storage": (one(REBUILD + b"(NK\x00)))tR"), "a tensor without a storage"),
    "odd dtype": (one(tensor().replace(STORAGE, text("device"))), "numbers of the kind device"),
    "other persistent": (one(b"(" + text("module") + b"NNNNtQ"), "names something beside it"),
    "wrong arguments": (one(REBUILD + b"(NtR"), "wrong arguments to torch._utils._rebuild"),
    "items of a tensor": (one(tensor() + b"K\x00K\x01s"), "adds items to a Described"),
    "items of a list": (one(b"]K\x00K\x01s"), "adds items to a list"),
    "appended to a dict": (one(b"}K\x00a"), "adds items to a dict"),
    "unequal items": (one(b"}(K\x01u"), "is not a whole PyTorch checkpoint"),
    "laughs as key": (with_pickle(b"}" + laughs() + tensor() + b"s"), "has a tuple as a key"),
    "laughs": (one(laughs()), r"not plain tensors: w \(tuple\)"),
    "bottomless": (with_pickle(b"0" * 9), "takes what it has not put"),
    "unknown memo": (with_pickle(b"h\x07"), "takes what it has not put"),
    "no end": (zipped({"a/data.pkl": b"\x80\x02}"}), "is not a whole PyTorch checkpoint"),
    "deep": (with_pickle(b"]" * 300_000 + b"a" * 299_999), "is of the type list"),
    "too many steps": (with_pickle(b"N0" * 600_000 + b"}"), "more than 1,000,000 steps"),
    "many bytes": (with_pickle(text("x" * 5 * MIB)), "pickle has more than 4,194,304 bytes"),
    "claimed text": (with_pickle(b"X\xff\xff\xff\x7fa"), "is not a whole PyTorch checkpoint"),
    "claimed text of 64 bits": (with_pickle(b"\x8d" + b"\xff" * 7 + b"\x7f"), "not a whole"),
    "claimed array": (with_pickle(b"\x96" + struct.pack("<Q", 2**40)), "is not a whole PyTorch"),
    "claimed integer": (with_pickle(b"\x8b\xff\xff\xff\x7f"), "is not a whole PyTorch"),
    "large memo": (with_pickle(b"}r\xff\xff\xff\x7f"), "without any tensor"),
    "large integer": (one(b"\x8b" + struct.pack("<I", 999) + b"\x7f" * 999), "are too large"),
    "decimal integer": (one(b"I" + b"9" * 5000 + b"\n"), "is not a whole PyTorch"),
    "one hash": (
        with_pickle(b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(999)) + b"u"),
        "integers that are too large",
    ),
    "copies": (
        with_pickle(
            b"ccollections\nOrderedDict\n\x94("
            + b"}"
            + b"]" * 0
            + b"t\x940"
            + b"]("
            + b"(K\x01Nt" * 9000
            + b"e\x85\x940"
            + b"}"
            + b"h\x00h\x02R" * 30
        ),
        "copies too much",
    ),
    "many arguments": (
        with_pickle(REBUILD + b"(" + b"N" * 5000 + b"tR"),
        "gives 5,000 arguments to torch",
    ),
    "number as truth": (
        one(tensor(16, (16,)).replace(b"Float", b"Bool"), b"\x02" * 16),
        "truth values other than 0 and 1",
    ),
    "unhashable key": (with_pickle(b"}]Ns"), "has a list as a key"),
    "itself": (with_pickle(b"}\x94" + text("w") + b"h\x00s"), r"not plain tensors: w \(dict\)"),
    "view of a storage": (one(tensor().replace(b"tQ", b"(NNNttQ")), "as PyTorch before 0.4"),
    "quantised": (one(tensor().replace(b"Float", b"QInt8")), "numbers of the kind torch.QInt8"),
}
STREAMS: dict[str, tuple[bytes, str]] = {
    "claims a terabyte": (
        stream(b"}" + text("w") + tensor(2**38, (2**38,)) + b"s", 2**38),
        "claims 1,099,511,627,776 bytes and has 16",
    ),
    "claims less than nothing": (stream(b"}" + text("w") + tensor() + b"s", -4), "claims -16"),
    "claims otherwise": (stream(b"}" + text("w") + tensor() + b"s", 3), "claims 16 .* has 12"),
    "cut": (stream(b"}" + text("w") + tensor() + b"s", 4, bytes(15)), "claims 16 bytes and has 15"),
    "no storage": (stream(b"}" + text("w") + tensor() + b"s", keys=()), "is not in the file"),
    "unknown storage": (stream(b"}", keys=("1",)), "other storages than it describes"),
    "twice": (stream(b"}" + text("w") + tensor() + b"s", keys=("0", "0")), "other storages"),
    "no list": (stream(b"}", keys=5), "does not list its storages"),
    "list of lists": (stream(b"}", keys=([],)), "does not list its storages"),
    "big endian": (
        stream(b"}").replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        "big-endian machine",
    ),
    "other magic": (pickle.dumps(5, 2), "does not begin as torch.save"),
    "huge pickle": (pickle.dumps("x" * 5 * MIB, 2), "more than 4,194,304 bytes"),
    "tar": (b"sys_info" + bytes(500) + b"ustar\x00" + bytes(500), "is not a whole PyTorch"),
}


CORPUS = {
    **{kind: (".pth", *case) for kind, case in PICKLES.items()},
    **{f"stream: {kind}": (".th", *case) for kind, case in STREAMS.items()},
}


@pytest.mark.parametrize("kind", CORPUS)
def test_they_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    suffix, data, message = CORPUS[kind]
    refused(tmp_path, monkeypatch, suffix, data, message)


def test_the_good_ones_load(tmp_path: Path) -> None:
    for good in (one(tensor()), stream(b"}" + text("w") + tensor() + b"s")):
        (tmp_path / "a.pth").write_bytes(good)
        assert torch.equal(read_state_dict(tmp_path / "a.pth")["w"], torch.zeros(4))


def test_the_baits_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own unpickler obeys the calls that are spelt for it."""
    for number_of, kind in enumerate(("call", "stack global", "inst", "obj")):
        folder = tmp_path / str(number_of)
        folder.mkdir()
        monkeypatch.chdir(folder)
        pickle.loads(b"\x80\x04" + CALLS[kind] + b".")
        assert (folder / "trace").is_dir()
    for value in (tensor(), laughs(5)):
        assert list(pickletools.genops(b"\x80\x02" + value + b"."))
