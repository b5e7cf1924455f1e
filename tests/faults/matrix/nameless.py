"""The fault application for a worker whose broker has a name that resolves only while a file is there."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from tests.faults.app import app as app

RESOLVES_VARIABLE: Final = "FAULTS_RESOLVES"
NAME: Final = "stem-broker.invalid"

_look_up = socket.getaddrinfo


def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
    """Do what `socket.getaddrinfo` does, but for the one name."""
    if host != NAME:
        return _look_up(host, *args, **kwargs)
    if not Path(os.environ.get(RESOLVES_VARIABLE, "/nowhere/at/all")).exists():
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _look_up("127.0.0.1", *args, **kwargs)


if RESOLVES_VARIABLE in os.environ:
    # uvloop asks the system by itself, where nothing can be changed for one process alone.
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    socket.getaddrinfo = look_up
