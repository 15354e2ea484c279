"""Forked processes: torch is warm in them, so that one can be killed every few milliseconds."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def start(work: Callable[[], object], report: Path | None = None) -> int:
    """Forks a process that does `work` and exits with 0, or with 1 and the error in `report`."""
    with warnings.catch_warnings():
        # Forking where other threads run warns: here they are Zarr's, which forgets them in the
        # child, and torch's, of which the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        if report is not None:
            report.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def kill(child: int) -> int:
    """Kills it, if it still runs; its exit code."""
    os.kill(child, signal.SIGKILL)
    return wait(child)


def wait(child: int) -> int:
    """Its exit code; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
