"""The application of the soak's workers: that of the fault tests, and a handler that counts what its process holds."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

from tests.faults.app import app

__all__ = ["app"]


@app.task("fault.census")
async def census(collect: bool = False) -> dict[str, int]:
    """Count blocks of memory, asyncio tasks and threads of this process.

    Args:
        collect: garbage first; what is left then is held by something.
    """
    if collect:
        gc.collect()
    return {
        "blocks": sys.getallocatedblocks(),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }
