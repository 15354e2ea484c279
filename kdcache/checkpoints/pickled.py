"""Pickled weights without an unpickler: a pickle's steps are followed, nothing it names is called.

Python's unpickler calls what a file names, and torch's weights-only one had holes of its own
(CVE-2025-32434 before 2.6; CVE-2026-24747 before 2.10: items set on what is no dict, storages
larger than their data). So the few steps that a state dict needs are taken here, over
`pickletools`' parse: they make plain values and descriptions of tensors, which are checked against
the file before any memory is taken.

A pickle has at most 4 MiB and 1,000,000 steps, a step makes some 100 bytes: 80 MiB measured for the
worst, 128 allowed.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from kdcache.checkpoints.described import (
    DTYPES_BY_NAME,
    IGNORED,
    Broken,
    Described,
    Opaque,
    Refused,
    Storage,
)

MOST_PICKLED = 4 * 2**20  # bytes
MOST_STEPS = 1_000_000
_MOST_ARGUMENTS = 16
_LARGE = 2**60  # integers from here on can be made to have one hash: a dict of them never ends
_MOST_LARGE = 100
_MOST_COPIED = 100_000  # items of the lists and dicts that OrderedDicts are made of


class _Named(NamedTuple):
    name: str


class Pickled(NamedTuple):
    """A pickle's value, and every storage it describes, by key."""

    value: Any
    storages: dict[str, Storage]


def unpickled(file: BinaryIO) -> Pickled:
    """The pickle that starts here; the file stands behind it afterwards.

    Raises Refused for a name outside the tables, Broken for whatever is no pickle of weights.
    """
    machine = _Machine()
    return Pickled(machine.run(_Bounded(file)), machine.storages)


class _Bounded:
    """A file from which one pickle is read: at most `MOST_PICKLED` bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MOST_PICKLED

    def read(self, size: int) -> bytes:
        return self._take(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))

    def tell(self) -> int:
        return self._file.tell()

    def _take(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise Broken(f"its pickle has more than {MOST_PICKLED:,} bytes")
        return data


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """A stack, its marks and a memo, as `pickle`'s protocols 0 to 5 have them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.large = 0
        self.copied = 0

    def run(self, file: _Bounded) -> Any:
        try:
            parsed = pickletools.genops(file)  # type: ignore[arg-type]
            for steps, (step, argument, _) in enumerate(parsed, start=1):
                if steps > MOST_STEPS:
                    raise Broken(f"its pickle has more than {MOST_STEPS:,} steps")
                if step.name == "STOP":
                    return self.pop()
                self.step(step.name, argument)
        except (IndexError, KeyError, OverflowError) as error:
            raise Broken("its pickle takes what it has not put") from error
        raise Broken("its pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.literal(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop_many(_TUPLES[name])))
        else:
            method = getattr(self, f"on_{name.lower()}", None)
            if method is None:  # such as INST, OBJ, EXT1, BYTEARRAY8, EMPTY_SET: no state dict has
                raise Broken(f"its pickle has the step {name}, which weights never need")
            method() if argument is None else method(argument)

    def literal(self, value: Any) -> None:
        if isinstance(value, int) and not -_LARGE < value < _LARGE:
            self.large += 1
            if self.large > _MOST_LARGE or not -(2**127) < value < 2**127:
                raise Broken("its pickle has integers that are too large")
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise IndexError
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise Broken(f"its pickle adds items to a {type(value).__name__}")
        return value

    def on_proto(self, version: int) -> None:
        pass

    on_frame = on_proto

    def on_mark(self) -> None:
        self.marks.append(len(self.stack))

    on_pop, on_pop_mark = pop, pop_to_mark

    def on_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def on_tuple(self) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def on_list(self) -> None:
        self.stack.append(self.pop_to_mark())

    def on_dict(self) -> None:
        made: dict[Any, Any] = {}
        self.put(made, self.pop_to_mark())
        self.stack.append(made)

    def on_append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def on_appends(self) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def on_setitem(self) -> None:
        items = self.pop_many(2)
        self.put(self.top(dict), items)

    def on_setitems(self) -> None:
        items = self.pop_to_mark()
        self.put(self.top(dict), items)

    def put(self, into: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple of tuples of tuples takes for ever to hash.
            if type(key) not in (str, int, bool, float, type(None)):
                raise Broken(f"its pickle has a {type(key).__name__} as a key")
            into[key] = value

    def on_put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    on_binput = on_long_binput = on_put

    def on_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def on_get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    on_binget = on_long_binget = on_get

    def on_global(self, name: str) -> None:
        self.name(name.replace(" ", "."))

    def on_stack_global(self) -> None:
        module, name = self.pop_many(2)
        self.name(f"{module:.200}.{name:.200}" if type(module) is type(name) is str else "?")

    def name(self, name: str) -> None:
        name = name.replace("__builtin__.", "builtins.")
        if name in DTYPES_BY_NAME:
            self.stack.append(DTYPES_BY_NAME[name])
        elif name in IGNORED or name in self.calls:
            self.stack.append(_Named(name))
        else:
            raise Refused(name[:200])

    def on_reduce(self) -> None:
        called, arguments = self.pop_many(2)
        if type(called) is not _Named or type(arguments) is not tuple:
            raise Broken("its pickle calls what is no name")
        if called.name in IGNORED:
            self.stack.append(Opaque(called.name))
            return
        if len(arguments) > _MOST_ARGUMENTS:
            raise Broken(f"its pickle gives {len(arguments):,} arguments to {called.name}")
        try:
            self.stack.append(self.calls[called.name](self, *arguments))
        except TypeError as error:
            raise Broken(f"its pickle gives wrong arguments to {called.name}") from error

    def on_newobj(self) -> None:
        made, _ = self.pop_many(2)
        if type(made) is not _Named or made.name not in IGNORED:
            raise Broken("its pickle makes what is no weight")
        self.stack.append(Opaque(made.name))

    def on_build(self) -> None:
        self.pop()  # the attributes of what is not made; an OrderedDict's version numbers

    def on_binpersid(self) -> None:
        given = self.pop()
        if type(given) is not tuple or not 5 <= len(given) <= 6 or given[0] != "storage":
            raise Broken("its pickle names something beside it that is no storage")
        dtype, key, _, numel = given[1:5]
        if type(dtype) is _Named:
            dtype = dtype.name  # a quantised one; refused when it is used
        if type(dtype) is not str or type(key) is not str or type(numel) is not int:
            raise Broken("its pickle describes a storage wrongly")
        if len(given) == 6 and given[5] is not None:
            raise Broken("it holds a view of a storage, as PyTorch before 0.4 wrote")
        storage = Storage(dtype, key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise Broken(f"its pickle describes storage {key[:40]} in two ways")
        self.stack.append(storage)

    def made_dict(self, items: Any = ()) -> dict[Any, Any]:
        self.copied += len(items)
        if self.copied > _MOST_COPIED:  # a long list given to many
            raise Broken("its pickle copies too much")
        made: dict[Any, Any] = {}
        if type(items) is dict:
            return dict(items)
        for pair in items:
            self.put(made, list(pair) if type(pair) in (list, tuple) and len(pair) == 2 else [0])
        return made

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Described:
        return Described(storage, offset, size, stride)

    def tensor_of_dtype(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, *more: Any
    ) -> Described:
        return Described(storage, offset, size, stride, *more[:1])

    def parameter(self, data: Any, *_: Any) -> Any:
        return data

    calls: dict[str, Callable[..., Any]] = {  # noqa: RUF012 - never changed
        "collections.OrderedDict": made_dict,
        "collections.Counter": made_dict,
        "torch.Size": parameter,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor_of_dtype,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
    }
