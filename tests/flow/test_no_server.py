"""Without any URL: at a terminal the embedded server serves everybody in the project; elsewhere nothing starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stem.adapters.embedded import EmbeddedServer
from tests.flow.running import at_terminal, environment, program, run

TASKS = """
from stem import Stem

app = Stem.connect()

@app.task("greet")
async def greet(name: str) -> str:
    return f"Hello, {name}"
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "deep").mkdir()
    yield tmp_path
    assert not EmbeddedServer.status(tmp_path / ".stem").in_use
    EmbeddedServer.stop(tmp_path / ".stem", force=True)


@pytest.mark.timeout(60)
def test_worker_stemctl_and_dashboard_in_three_terminals_share_the_embedded_server(project: Path) -> None:
    env = environment()
    with at_terminal([program("stem-worker"), "tasks:app"], env=env, folder=project) as worker:
        worker.await_text("greet")
        assert ".stem" in worker.seen or "embedded" in worker.seen

        # From another folder of the project, too.
        with at_terminal(
            [program("stemctl"), "enqueue", "greet", "name=Stem"], env=env, folder=project / "deep"
        ) as sent:
            assert sent.wait() == 0, sent.seen
        found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", sent.seen)
        assert found, sent.seen
        with at_terminal([program("stemctl"), "result", found[0], "--wait", "10s"], env=env, folder=project) as result:
            assert result.wait() == 0, result.seen
        assert "Hello, Stem" in result.seen
        assert "embedded" in result.seen
        assert not (project / "deep" / ".stem").exists()

        with at_terminal([program("stem-tui")], env=env, folder=project) as dashboard:
            dashboard.await_text("QUEUE")
            dashboard.type("q")
            assert dashboard.wait() == 0, dashboard.seen[-3000:]

        worker.type("\x03")
        assert worker.wait() == 0, worker.seen[-3000:]
    assert not EmbeddedServer.status(project / ".stem").running


@pytest.mark.parametrize(
    "command", [("stemctl", "ping"), ("stemctl", "enqueue", "greet"), ("stem-worker", "tasks:app"), ("stem-tui",)]
)
def test_without_a_terminal_it_is_refused_and_says_what_to_set(project: Path, command: tuple[str, ...]) -> None:
    done = run([program(command[0]), *command[1:]], env=environment(), folder=project)

    assert done.returncode == 2, done.stdout + done.stderr
    assert "STEM_BROKER_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / ".stem").exists()


def test_embedded_by_name_needs_no_terminal(project: Path) -> None:
    env = environment(STEM_BROKER_URL="embedded://")

    done = run([program("stemctl"), "queues", "ls", "--json"], env=env, folder=project)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["items"] == []
    assert (project / ".stem").is_dir()
