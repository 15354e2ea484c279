"""What a pickle of weights may name, and what it then says of its tensors."""

from typing import Any, NamedTuple


class Refused(Exception):
    """The pickle names something that is not in the tables: `str(error)` is its name."""


class Broken(ValueError):
    """Not a pickle of weights; the text says why."""


class Storage(NamedTuple):
    """What a file says of one run of numbers: `numel` of `dtype`, found under `key`."""

    dtype: str
    key: str
    numel: int


class Described(NamedTuple):
    """What a file says of one tensor: a strided view of a storage."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: Any = None  # None: the storage's


class Opaque(NamedTuple):
    """Something that is no weight, and was not made."""

    what: str


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}
DTYPES_BY_NAME = {
    **{f"torch.{storage}": dtype for storage, dtype in _STORAGES.items()},
    **{f"torch.cuda.{storage}": dtype for storage, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": "uint8",
    **{
        f"torch.{dtype}": dtype
        for dtype in (
            *_STORAGES.values(),
            *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
            *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        )
    },
}
DTYPES = frozenset(DTYPES_BY_NAME.values())

# Never made and never called: what stands beside the weights, and tensors that no network here has.
IGNORED = {
    "argparse.Namespace",  # a run's options (CRD's `opt`)
    "numpy.core.multiarray.scalar",  # a run's accuracy; numpy before 2
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",  # how protocol 2 spells a numpy scalar's bytes
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "torch.device",
    "torch.serialization._get_layout",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_wrapper_subclass",
    "torch.QInt8Storage",
    "torch.QUInt8Storage",
    "torch.QInt32Storage",
    *(f"torch.{name}" for name in ("qint8", "quint8", "qint32", "per_tensor_affine")),
}
