"""What Textual's workers are given to run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec

P = ParamSpec("P")


def work(function: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> Any:
    """Return a call for `run_worker`: of a worker that is cancelled before it begins, a coroutine is never awaited."""
    return partial(function, *args, **kwargs)
