"""How a program of Stem starts and ends quickly.

Python's collector of cycles looks at young objects after every 700 that were made, and now and then at all. While
modules are loaded it finds nothing and takes a fifth of the time; and at the end of the program it looks once more at
all that goes with the process anyway.
"""

from __future__ import annotations

import atexit
import gc
from typing import Final

MANY: Final = 100_000
"""More objects than it takes to load a program, few enough for one that then runs for long."""
_USUAL: Final = gc.get_threshold()


def hurry() -> None:
    """Call this first in a program whose end nobody's finalizers depend on."""
    gc.set_threshold(MANY)
    atexit.register(gc.freeze)


def settle(*, for_others: bool) -> None:
    """Call this once everything is loaded, in a program that runs for long: the collector works as ever from here on.

    What is loaded stays, so it is not looked at again.

    Args:
        for_others: code that is not ours runs from here on: at the end of the process everything is looked at, as ever.
    """
    gc.freeze()
    if gc.get_threshold()[0] == MANY:  # else somebody who was loaded meanwhile knows better
        gc.set_threshold(*_USUAL)
    if for_others:
        atexit.unregister(gc.freeze)
        atexit.register(gc.unfreeze)
