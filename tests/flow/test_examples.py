"""Each sample of examples/ runs and prints what it says it does."""

from __future__ import annotations

import json
import re
import sys
from typing import Final

import pytest

from tests.conftest import OwnServer
from tests.flow.running import ROOT, environment, program, run, running

UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
KEYS: Final = {
    "STEM_SIGNING_KEYS": "main:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MDE=",
    "STEM_SIGNING_ACTIVE_KEY": "main",
}


def example(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"examples/{name}.py", *arguments]


@pytest.fixture
def server_url(own_server: OwnServer) -> str:
    """A server on TCP, as in the samples."""
    return own_server(tcp=True, aof=False, options=("--maxmemory-policy", "noeviction")).tcp_url


def test_every_sample_of_the_guide_has_its_twin() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}

    assert names == {
        *("producer", "producer_redis", "producer_signed"),
        *("worker", "worker_redis", "worker_retry"),
        *("bootstrap", "tasks"),
        "fastapi_app",  # run by test_frameworks.py, as is django_shop
    }


def test_producer() -> None:
    done = run(example("producer"), env=environment())

    assert re.fullmatch(rf"Enqueued {UUID}\n", done.stdout), done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_worker() -> None:
    with running(example("worker"), env=environment()) as worker:
        worker.await_output("Sending to hello@example.com (attempt 0)\n")

        assert worker.stop() == 0


def test_worker_retry_announces_each_retry_and_then_succeeds() -> None:
    with running(example("worker_retry"), env=environment()) as worker:
        worker.await_output("Succeeded on attempt 2\n")

        assert worker.stop() == 0
        retries = re.findall(r"^\[retry\] next run at: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*$", worker.output, re.MULTILINE)
        assert len(retries) == 2, worker.output
        assert worker.output.splitlines()[-1] == "Succeeded on attempt 2"


def test_bootstrap_shares_one_broker() -> None:
    done = run(example("bootstrap"), env=environment())

    assert (done.returncode, done.stdout) == (0, "succeeded: Hello, Stem\n"), done.stderr


@pytest.mark.parametrize(("keys", "word"), [(KEYS, "signed"), ({}, "unsigned")])
def test_producer_signed(server_url: str, keys: dict[str, str], word: str) -> None:
    done = run(example("producer_signed"), env=environment(STEM_BROKER_URL=server_url, **keys))

    assert re.fullmatch(rf"Enqueued {UUID} \({word}\)\n", done.stdout), done.stderr


@pytest.mark.parametrize("form", ["unix", "with a database"])
def test_a_broker_url_of_any_form_does_for_the_samples(own_server: OwnServer, form: str) -> None:
    server = own_server(tcp=True, aof=False, options=("--maxmemory-policy", "noeviction"))
    env = environment(STEM_BROKER_URL=server.url if form == "unix" else f"{server.tcp_url}/2")
    produced = run(example("producer_redis"), env=env)

    assert re.fullmatch(rf"Enqueued {UUID}\n", produced.stdout), produced.stderr
    with running(example("worker_redis", "reports"), env=env) as worker:
        worker.await_output("Generating monthly-2025-10\n")

        assert worker.stop() == 0


@pytest.mark.timeout(60)
def test_reports_wait_and_say_why_until_a_worker_takes_their_queue(server_url: str) -> None:
    env = environment(STEM_BROKER_URL=server_url)
    produced = run(example("producer_redis"), env=env)
    found = re.fullmatch(rf"Enqueued ({UUID})\n", produced.stdout)
    assert found, produced.stderr
    task_id = found[1]

    # A worker that knows the task but does not take its queue: its banner and `why` both say so.
    with running(example("worker_redis"), env=env) as worker:
        worker_up = run([program("stemctl"), "ping", "--json"], env=env)
        while json.loads(worker_up.stdout).get("data", {}).get("replied") != 1:
            worker_up = run([program("stemctl"), "ping", "--json"], env=env)
        why = run([program("stemctl"), "why", task_id, "--json"], env=env)
        assert worker.stop() == 0
        warning = next((line for line in worker.errors.splitlines() if "reports" in line), "")
        assert "report.generate" in warning, worker.errors
    answer = json.loads(why.stdout)["data"]
    assert answer["state"] == "queued"
    assert "reports" in answer["verdict"]
    assert answer["causes"][0]["fix"]

    with running(example("worker_redis", "default", "reports"), env=env) as worker:
        worker.await_output("Generating monthly-2025-10\n")

        assert worker.stop() == 0
    status = run([program("stemctl"), "result", task_id, "--json"], env=env)
    assert json.loads(status.stdout)["data"]["result"] == "monthly-2025-10.pdf"


def test_the_tasks_to_start_with(server_url: str) -> None:
    env = environment(STEM_BROKER_URL=server_url)
    stemctl = [program("stemctl")]
    with running([program("stem-worker"), "examples.tasks:app"], env=env) as worker:
        for words, result in (
            (["email.send", "to=a@example.com"], "sent 'Welcome' to a@example.com"),
            (["report.build", "report_id=monthly", "pages=2"], {"report": "monthly", "pages": 2}),
            (["image.resize", "path=a.jpg"], "a.jpg at 800 pixels"),
        ):
            sent = run([*stemctl, "enqueue", *words, "--json"], env=env)
            task_id = json.loads(sent.stdout)["data"]["id"]
            done = run([*stemctl, "result", task_id, "--wait", "10s", "--json"], env=env)
            assert json.loads(done.stdout)["data"]["result"] == result, done.stderr

        assert worker.stop() == 0
