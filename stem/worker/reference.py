"""`package.module:attribute`: where an application is. For `stem-worker`, and for the child processes of a worker."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any, Final

from stem.client import Stem
from stem.errors import ConfigError, StemError
from stem.text import clean

_REFERENCE: Final = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")


class ApplicationFailedError(ConfigError):
    """The application's own code failed while it was imported: perhaps of something that is only away for a moment."""


def load(reference: str) -> Stem:
    """Import `package.module:attribute` (`:app` may be left out) and return the application.

    Raises:
        ApplicationFailedError: its own code raised something that another start may not meet.
        ConfigError: it cannot be imported, or is no `Stem`.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ConfigError(f"{ascii(reference)[:100]} is no application: use package.module:attribute")
    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise ConfigError(f"there is no module {module_name} here: start in its folder, or install it") from error
        raise ConfigError(f"{module_name} needs {clean(missing, 100)}, which is not installed") from error
    except StemError:
        raise
    except SystemExit as error:
        raise ApplicationFailedError(
            f"{module_name} cannot be imported: it ended itself: {clean(error, 300)}"
        ) from error
    except Exception as error:
        kind = ConfigError if isinstance(error, ImportError | SyntaxError) else ApplicationFailedError
        raise kind(f"{module_name} cannot be imported: {type(error).__name__}: {clean(error, 300)}") from error
    for part in (attribute or "app").split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{module_name} has no attribute {part!r}: use package.module:attribute")
        found = getattr(found, part)
    if not isinstance(found, Stem):
        raise ConfigError(f"{reference} is a {type(found).__name__}, not a Stem application")
    return found
