"""Draws docs/pictures/overview.svg from the running dashboard under the demo's load: `python docs/make_picture.py`."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stem.adapters.connect import connect_broker
from stem.control.diagnose import diagnose
from stem.observe.feed import Feed
from stem.observe.state import ClusterState
from stem_tui.app import StemTUI
from stem_tui.session import Session

PICTURE = Path(__file__).parent / "pictures" / "overview.svg"
LOAD_S, SETTLE_S, SHOWN_S = 45, 25, 10


async def draw(url: str) -> str:
    broker = connect_broker(url, namespace="demo")
    state = ClusterState(diagnose)
    feed = Feed(broker, state, watcher="picture")
    app = StemTUI(Session(state=state, feed=feed, url="redis://10.0.3.7:6379/0", namespace="prod", hz=10), broker)
    async with app.run_test(size=(124, 38)):
        await asyncio.sleep(SHOWN_S)
        picture = app.export_screenshot(title="stem-tui")
    await broker.close()
    # No font is fetched by whoever looks at it: the reader's own monospace serves.
    return re.sub(r"@font-face\s*{[^}]*}", "", picture).replace("Fira Code", "monospace")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as folder:
        demo = subprocess.Popen(
            [sys.executable, "-m", "stemctl", "demo", "--headless", "--seconds", str(LOAD_S)],
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
        )
        time.sleep(SETTLE_S)
        (socket,) = Path(folder).glob("stem-demo-*/.stem/*.sock")
        picture = asyncio.run(draw(f"unix://{socket}"))
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")
        return demo.wait()


if __name__ == "__main__":
    sys.exit(main())
