"""Random sequences of calls: each adapter answers, and keeps, what a small model says.

In a process of their own, as `python -m tests.model`: there a seed means the same sequences whatever else was imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import redis_server_path

ROOT = Path(__file__).parent.parent.parent


def played(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run it with warnings as errors."""
    command = [sys.executable, "-W", "error", "-m", "tests.model", "--jobs", "1", "--no-shrink", *arguments]
    set_ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in (str(ROOT), os.getenv("PYTHONPATH")) if path)}
    return subprocess.run(command, cwd=cwd, env=set_, capture_output=True, text=True, timeout=240, check=False)


# Seconds, but on a machine as slow as may be. The printed command looks for a shorter sequence, for up to five minutes.
@pytest.mark.timeout(250)
@pytest.mark.parametrize(
    ("adapter", "examples"),
    [("memory", 90), ("valkey", 45), pytest.param("redis70", 25, marks=pytest.mark.debian_redis)],
)
def test_the_adapter_does_what_the_model_says(adapter: str, examples: int, tmp_path: Path) -> None:
    """And Hypothesis leaves no database where it ran."""
    if adapter == "redis70" and redis_server_path() is None:
        pytest.skip("redis-server is not on PATH")

    run = played("--adapter", adapter, "--examples", str(examples), "--steps", "30", cwd=tmp_path)

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{adapter}: {examples} examples" in run.stdout
    assert not run.stderr
    assert list(tmp_path.iterdir()) == []
