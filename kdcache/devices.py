"""Devices and number formats: `--device` and `--precision`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from kdcache.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """`auto`: the accelerator if there is one, else the CPU. UsageError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto, cpu, "
            "or cuda:N on a machine that has one"
        ) from error
    return device


@contextmanager
def precision_context(device: torch.device, precision: str) -> Iterator[None]:
    """Forward passes in `precision`: fp32 is true float32 (no TF32), bf16 and fp16 are autocast."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    with _true_float32(device) if precision == "fp32" else _autocast(device, precision):
        yield


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    # The autocast cache would keep weights cast before an optimizer step.
    return torch.autocast(device.type, dtype=PRECISIONS[precision], cache_enabled=False)


def _true_float32(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
