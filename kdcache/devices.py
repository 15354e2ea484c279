"""Devices and number formats: `--device` and `--precision`."""

from collections.abc import Iterator, Sequence
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


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`. To CUDA it goes through pinned memory, so that the host need not wait.

    Pinned memory comes from torch's own cache, which hands a block out again only after its copy.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class OnTheWay:
    """Tensors of one device that are being copied to the host, while that goes on with its work."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        # To the CPU without blocking: into pinned memory of torch's own cache.
        self._tensors = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        self._arrived: torch.cuda.Event | None = None
        if tensors and tensors[0].is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[torch.Tensor]:
        """The tensors on the host; any thread may ask."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a CUDA device; infinite where torch cannot tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


@contextmanager
def precision_context(device: torch.device, precision: str) -> Iterator[None]:
    """Forward passes in `precision`: bf16 and fp16 by autocast; fp32 whatever surrounds it."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    lower = torch.bfloat16 if precision == "fp32" else PRECISIONS[precision]
    # The autocast cache would keep weights cast before an optimizer step.
    autocast = torch.autocast(
        device.type, dtype=lower, enabled=precision != "fp32", cache_enabled=False
    )
    with repeatable_convolutions(device, precision), autocast:
        yield


def repeatable_convolutions(
    device: torch.device, precision: str
) -> AbstractContextManager[None, bool | None]:
    """Around forward and backward: the same bits again, and no TF32 where fp32 was asked for."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=precision != "fp32"
    )
