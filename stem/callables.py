"""Reading how a user's function is called. Knows Python only."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return its signature; annotations may name what only type checkers import.

    From Python 3.14 on, annotations are evaluated when somebody reads them, which `inspect.signature` does: a name that
    is not there at run time would fail the import of the user's module.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format  # not there before

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    else:
        return inspect.signature(function)
