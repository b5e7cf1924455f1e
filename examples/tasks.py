"""The tasks of docs/getting-started.md, in the short style.

Work:    stem-worker examples.tasks:app
Enqueue: stemctl enqueue email.send to=hello@example.com
"""

import asyncio
import time

from stem import Stem, TaskContext

app = Stem.connect()  # STEM_BROKER_URL, or on a terminal the embedded server; connects when first used


@app.task("email.send", max_retries=5)
async def send_email(to: str, subject: str = "Welcome") -> str:
    """Wait for a mail server, as most tasks wait for something."""
    await asyncio.sleep(0.1)
    return f"sent {subject!r} to {to}"


@app.task("report.build", time_limit=60)
async def build_report(context: TaskContext, report_id: str, pages: int = 10) -> dict[str, int | str]:
    """Work in steps and say how far it is: `stemctl tasks show ID` and the dashboard display it."""
    for page in range(1, pages + 1):
        await asyncio.sleep(0.05)
        context.progress({"page": page, "of": pages})
    return {"report": report_id, "pages": pages}


@app.task("image.resize")
def resize_image(path: str, width: int = 800) -> str:
    """Block, as plain functions may: they run in a thread, and the worker goes on answering."""
    time.sleep(0.2)
    return f"{path} at {width} pixels"
