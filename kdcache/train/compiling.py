"""`--compile`: the student's forward pass and the loss by torch.compile, backward passes with them.

On CUDA with mode "reduce-overhead": the step of a small student is many short kernels, and a CUDA
graph launches them as one. On the CPU with the default mode. Only the calls are compiled: the
network itself, its weights, its evaluation and its checkpoints stay what they are without.

A loss that changes by epoch is left as it is. Compiled code rounds differently than plain code in
the last bits, so it is part of what a run is.

    forward = compiled(network, device)
    begin_step(device)
    logits_BC = forward(images)
"""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from kdcache.errors import RunFailed, UsageError

_Result = TypeVar("_Result")
_WITHOUT = "or leave --compile out"
# Of different losses or students of one class in a process; torch's own 8 are soon reached by a
# sweep, and the ninth would run uncompiled without a word.
_MOST_OF_A_KIND = 256


def require_compiler(device: torch.device) -> None:
    """Raises UsageError where torch.compile has no compiler to make code for this device with."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError(
            f"--compile on {device} needs Triton, which is not installed; pip install triton, "
            f"{_WITHOUT}"
        )
    wanted = os.environ.get("CXX")
    known = (wanted,) if wanted else ("g++", "clang++", "c++")
    if not any(shutil.which(name) for name in known):
        raise UsageError(
            f"--compile needs a C++ compiler: none of {', '.join(known)} is found. Install g++, "
            f"name yours in the environment variable CXX, {_WITHOUT}"
        )


def compiled(function: Callable[..., _Result], device: torch.device) -> Callable[..., _Result]:
    """`function`, a network or a loss, compiled at its first call, for the shapes it is given.

    Raises UsageError without a compiler; a call raises RunFailed when compiling fails.
    """
    require_compiler(device)
    limits = torch._dynamo.config
    limit = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"
    setattr(limits, limit, max(getattr(limits, limit), _MOST_OF_A_KIND))
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    fast = torch.compile(function, mode=mode, dynamic=False)

    # Dynamo looks at the gradient of every tensor it is given, then warns of it.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")

    def call(*args: Any, **options: Any) -> _Result:
        try:
            return fast(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise RunFailed(
                f"torch.compile could not compile {type(function).__name__} ({first:.300}); leave "
                "--compile out"
            ) from error

    return call


def begin_step(device: torch.device) -> None:
    """Before each step: what the last step's CUDA graphs gave out may be overwritten now."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
