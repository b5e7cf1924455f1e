"""The demo: what it shows, that its account is honest, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stem.adapters.memory import InMemoryBroker
from stem.contracts import NewTask
from stem.control.controller import Controller
from stemctl.demo.aftermath import enter
from stemctl.demo.ledger import KINDS, Ledger, Line, at_work, judge, open_tasks, read
from tests.flow.running import at_terminal, program
from tests.waiting import wait_until

W1, W2, SHOP = 101, 102, 1

GOOD = [
    Line(SHOP, "acked", "plain"),
    Line(W1, "started", "plain"),
    Line(W1, "done", "plain"),
    Line(W1, "final:succeeded", "plain"),
    Line(SHOP, "acked", "flaky"),
    Line(W1, "started", "flaky"),
    Line(W1, "failed", "flaky"),
    Line(W1, "final:retry", "flaky"),
    Line(W1, "started", "flaky", 1),
    Line(W1, "failed", "flaky", 1),
    Line(W1, "final:failed", "flaky", 1),
    Line(SHOP, "acked", "waiting"),
    Line(SHOP, "withdrawn", "waiting"),
    Line(SHOP, "acked", "long"),
    Line(W1, "started", "long"),
    Line(SHOP, "stopping", "long"),
    Line(W1, "cut", "long"),
    Line(W1, "final:revoked", "long"),
]


def test_a_whole_account_adds_up() -> None:
    verdict = judge(GOOD)

    assert verdict.clean
    assert (verdict.enqueued, verdict.succeeded, verdict.dead, verdict.revoked) == (4, 1, 1, 2)
    assert (verdict.failed, verdict.retried, verdict.extra_starts) == (2, 1, 0)
    assert open_tasks(GOOD) == []


@pytest.mark.parametrize("missing", [line for line in GOOD if line.kind not in ("stopping", "final:retry")], ids=str)
def test_one_line_less_breaks_it(missing: Line) -> None:
    """Except `stopping`, which the recorded end of that task says as well, and the note of a retry."""
    verdict = judge([line for line in GOOD if line is not missing])

    assert verdict.lost + verdict.duplicated > 0


@pytest.mark.parametrize("line", [line for line in GOOD if line.kind.startswith("final:") and line.kind[6:] != "retry"])
def test_an_end_twice_is_a_duplicate(line: Line) -> None:
    assert judge([*GOOD, line]).duplicated == 1


def test_an_end_on_another_worker_too_is_a_duplicate() -> None:
    again = [Line(W2, kind, "plain") for kind in ("started", "done", "final:succeeded")]

    assert judge([*GOOD, *again]).duplicated == 1


def test_a_task_that_ran_after_it_was_withdrawn_is_a_duplicate() -> None:
    ran = [Line(W2, kind, "waiting") for kind in ("started", "done", "final:succeeded")]

    assert judge([*GOOD, *ran]).duplicated == 1


def test_a_run_again_after_a_kill_is_an_extra_start_and_no_duplicate() -> None:
    """Also when the killed handler had finished and only the record was missing."""
    first = [Line(W2, kind, "hit") for kind in ("started", "done")]
    second = [Line(W1, kind, "hit") for kind in ("started", "done", "final:succeeded")]
    verdict = judge([*GOOD, Line(SHOP, "killed", str(W2)), Line(SHOP, "acked", "hit"), *first, *second])

    assert verdict.clean
    assert (verdict.extra_starts, verdict.killed_workers) == (1, 1)


def test_a_task_that_only_a_killed_worker_began_is_lost() -> None:
    lines = [*GOOD, Line(SHOP, "killed", str(W2)), Line(SHOP, "acked", "hit"), Line(W2, "started", "hit")]

    assert judge(lines).lost == 1
    assert open_tasks(lines) == ["hit"]


def test_who_is_at_work_is_who_has_begun_and_not_ended() -> None:
    assert at_work(GOOD) == {}
    assert at_work([*GOOD, Line(W2, "started", "a"), Line(W2, "started", "b"), Line(W2, "done", "a")]) == {W2: 1}


def test_the_ledger_reads_what_it_wrote(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("acked", "a")
    with pytest.raises(RuntimeError), ledger.attempt("a", 2):
        raise RuntimeError
    ledger.close()

    me = os.getpid()
    assert read(tmp_path) == [Line(me, "acked", "a"), Line(me, "started", "a", 2), Line(me, "failed", "a", 2)]


@pytest.mark.parametrize("text", ["done\ta\n", "done\ta\tx\n", "made up\ta\t0\n"])
def test_a_line_nobody_could_have_written_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "7.ledger").write_text(text)

    with pytest.raises(ValueError, match="is not a ledger line"):
        read(tmp_path)
    assert {line.kind for line in GOOD} < KINDS


# ------------------------------------------------------------------------------------------------------ the real thing


def demo(tmp_path: Path, *options: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("stemctl"), "demo", *options],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (path.parent / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in line or text in environment:
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_is_lost_and_every_kind_of_end_is_seen(tmp_path: Path) -> None:
    done = demo(tmp_path, "--headless", "--seconds", "10", "--json", "--keep")

    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    data = answer["data"]
    assert (answer["schema"], answer["command"], answer["ok"]) == ("stem/1", "demo", True)
    assert data["succeeded"] > 1000
    assert min(data["retried"], data["dead"], data["revoked"], data["failed"]) > 0
    assert (data["lost"], data["duplicated"], data["killed_workers"], data["workers"]) == (0, 0, 1, 4)
    assert data["enqueued"] == data["succeeded"] + data["dead"] + data["revoked"]
    assert data["tasks_per_s"] > 0

    # The account is taken from these files, so one line less must be noticed.
    (folder,) = tmp_path.glob("stem-demo-*/ledger")
    lines = read(folder)
    assert judge(lines).clean
    # Not of a task that the killed worker had: that one wrote nothing more, so there a line less explains itself.
    killed = {int(line.task_id) for line in lines if line.kind == "killed"}
    touched = {line.task_id for line in lines if line.writer in killed}
    for kind in ("acked", "started", "done", "final:succeeded", "final:failed"):
        victim = next(line for line in lines if line.kind == kind and line.task_id not in touched)
        verdict = judge([line for line in lines if line is not victim])
        assert verdict.lost + verdict.duplicated == 1, kind


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    done = demo(tmp_path, "--headless", "--seconds", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("before", "entered"),
    [
        ([], "withdrawn"),
        ([Line(2, "started", "t"), Line(2, "failed", "t"), Line(2, "final:retry", "t")], "withdrawn"),
        ([Line(9, "started", "t")], "stopping"),  # by a worker that was killed before it could stop it
        ([Line(2, "started", "t"), Line(2, "cut", "t"), Line(2, "final:revoked", "t")], None),
    ],
    ids=["waiting", "waiting for its retry", "on a killed worker", "written down by its worker"],
)
async def test_who_revokes_at_the_dashboard_is_in_the_account(
    tmp_path: Path, before: list[Line], entered: str | None
) -> None:
    broker = InMemoryBroker()
    await broker.enqueue([NewTask(id="t", task="video.encode", queue="media", body=b"")])
    await Controller(broker, actor="tester", timeout_s=0.1).revoke(["t"])
    lines = [Line(1, "acked", "t"), Line(1, "killed", "9"), *before]
    ledger = Ledger(tmp_path)
    for _ in range(2):
        await enter(broker, ledger, [*lines, *read(tmp_path)])
    ledger.close()

    assert [line.kind for line in read(tmp_path)] == ([entered] if entered else [])
    assert open_tasks([*lines, *read(tmp_path)]) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("ledgers", [1, 3], ids=["before it began", "under load"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up_too(tmp_path: Path, number: signal.Signals, ledgers: int) -> None:
    process = subprocess.Popen(
        [program("stemctl"), "demo", "--headless", "--seconds", "60"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("stem-demo-*/ledger/*"))) >= ledgers, timeout=40)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_at_a_terminal_it_opens_the_dashboard_and_sums_up_when_that_is_closed(tmp_path: Path) -> None:
    with at_terminal([program("stemctl"), "demo"], env={**os.environ, "TMPDIR": str(tmp_path)}) as terminal:
        terminal.await_text("payment.charge", timeout=60)
        terminal.type("q")

        assert terminal.wait(60) == 0, terminal.seen[-3000:]
    assert "Nothing was lost" in terminal.seen
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_after_its_seconds_it_closes_the_dashboard_and_the_terminal_is_as_before(tmp_path: Path) -> None:
    command = [program("stemctl"), "demo", "--seconds", "6"]
    with at_terminal(command, env={**os.environ, "TMPDIR": str(tmp_path)}) as terminal:
        assert terminal.wait(90) == 0, terminal.seen[-3000:]
    on, off = terminal.seen.rfind("\x1b[?1049h"), terminal.seen.rfind("\x1b[?1049l")
    assert 0 <= on < off < terminal.seen.rfind("Nothing was lost")
    assert terminal.seen.rfind("\x1b[?1003h") < terminal.seen.rfind("\x1b[?1003l")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_its_workers_end_by_themselves(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [program("stemctl"), "demo", "--headless", "--seconds", "60"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(tmp_path.glob("stem-demo-*/ledger/*"))) > 1, timeout=40)
    process.kill()
    process.wait()

    try:
        wait_until(lambda: not any("stemctl.demo.worker" in line for line in processes_with(str(tmp_path))), timeout=60)
    finally:
        (folder,) = tmp_path.glob("stem-demo-*")
        stop = "from stem.adapters.embedded import EmbeddedServer; EmbeddedServer.stop(__import__('sys').argv[1])"
        subprocess.run([sys.executable, "-c", stop, str(folder / ".stem")], check=True, timeout=30)
