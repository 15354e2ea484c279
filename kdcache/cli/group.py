"""How every command ends: one clear message for an error, the right exit code, no traceback."""

import errno
import warnings
from typing import Any

import click

from kdcache.cli.printing import tell
from kdcache.errors import KdcacheError, readable


def command_failed(message: str, exit_code: int) -> click.ClickException:
    """An error as the terminal shows it, with its exit code."""
    error = click.ClickException(message)
    vars(error)["exit_code"] = exit_code
    return error


class KdcacheGroup(click.Group):
    """Turns domain errors, signals and the operating system's refusals into messages."""

    def invoke(self, ctx: click.Context) -> Any:
        with _plain_warnings():
            try:
                return super().invoke(ctx)
            except KdcacheError as error:
                raise command_failed(str(error), error.exit_code) from error
            except KeyboardInterrupt as error:
                raise command_failed(
                    "interrupted; what was committed is kept, the same command goes on", 130
                ) from error
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise
                hint = (
                    "free some space and run the same command again"
                    if error.errno == errno.ENOSPC
                    else "check the path and its permissions"
                )
                message = readable(f"{error}; what was committed is kept; {hint}")
                raise command_failed(message, 1) from error
            except MemoryError as error:
                raise command_failed(
                    f"not enough memory ({error}); what was committed is kept. Try a smaller "
                    "--batch-size, fewer --mentors, or a larger machine",
                    1,
                ) from error


class _plain_warnings(warnings.catch_warnings):  # noqa: N801  (used like a function)
    """Shows warnings as one line, without file and line number."""

    def __enter__(self) -> None:
        super().__enter__()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            tell(f"warning: {message}", err=True)

        warnings.showwarning = show
