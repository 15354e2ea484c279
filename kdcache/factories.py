"""`package.module:factory`: a user's own network or dataset, by the function that makes it."""

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError


def call_factory(what: str, path: str, argument: object) -> Any:
    """Imports `module` and returns `factory(argument)`; `what` ("network") begins the errors.

    Meanwhile the current folder comes first in `sys.path`, as for `python -m`. Raises UsageError
    when the module or the factory is missing, or either fails.
    """
    module_name, _, attribute = path.partition(":")
    given = f"{what} {path!r}"
    if not (module_name and attribute.isidentifier()):
        raise UsageError(f"{given}: expected package.module:factory, for example my_code:build")
    with _current_folder_importable() as folder:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and f"{module_name}.".startswith(f"{error.name}."):
                raise UsageError(
                    f"{given}: there is no module {error.name!r}, neither in {folder} nor "
                    "installed. Run from the folder that holds it, or install it."
                ) from None
            raise UsageError(f"{given}: importing {module_name} failed: {error}") from error
        except Exception as error:
            raise UsageError(
                f"{given}: importing {module_name} failed: {type(error).__name__}: {error}"
            ) from error
        where = getattr(module, "__file__", None) or module_name
        factory = getattr(module, attribute, None)
        if factory is None:
            found = [key for key, value in vars(module).items() if callable(value)]
            near = difflib.get_close_matches(attribute, found, n=3)
            did_you_mean = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"{given}: there is no {attribute} in {where}.{did_you_mean}")
        if not callable(factory):
            raise UsageError(
                f"{given}: {attribute} in {where} is a {type(factory).__name__}, expected a "
                f"function that returns the {what}"
            )
        try:
            return factory(argument)
        except Exception as error:
            raise UsageError(
                f"{given}: {attribute}({argument!r}) in {where} failed: {type(error).__name__}: "
                f"{error}. It is called with this one argument."
            ) from error


def runs_code(name: str) -> bool:
    """Whether a network's or dataset's name is a module:factory, to be imported and called."""
    return ":" in name and not name.startswith("torchvision:")


def require_named(name: str, *, option: str, origin: object) -> str:
    """`name`, unless it is a module:factory that only a file names: it would run code of others.

    Raises UsageError with the option by which the user can name it.
    """
    if runs_code(name):
        raise UsageError(
            f"{origin} names {name!r:.100}, which would run code: a module is imported and called. "
            f"If you trust it, name it yourself with {option}"
        )
    return name


@contextmanager
def _current_folder_importable() -> Iterator[Path]:
    """First in the path: a console script does not look there by itself."""
    folder = Path.cwd()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
