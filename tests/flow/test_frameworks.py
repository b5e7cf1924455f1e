"""The examples for FastAPI and Django with a real server, real workers and, for Django, its own web server."""

from __future__ import annotations

import asyncio
import functools
import importlib
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.conftest import OwnServer
from tests.flow.running import ROOT, environment, program, run, running
from tests.waiting import eventually, wait_until

QUICKLY_S: Final = 10.0
"""One second of patience and a margin for slow machines; the client library alone would try for longer."""
SETTINGS: Final = "examples.django_shop.settings"


@asynccontextmanager
async def web(module: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the FastAPI application between its start and its end, as a server runs it."""
    async with module.api.router.lifespan_context(module.api):
        transport = httpx.ASGITransport(app=module.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20) as client:
            yield client


@pytest.mark.timeout(60)
async def test_fastapi(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's task runs on a worker; bad arguments are a 400, a broker that is away a quick 503."""
    server = own_server(options=("--maxmemory-policy", "noeviction"))
    monkeypatch.setenv("STEM_BROKER_URL", server.url)
    monkeypatch.delitem(sys.modules, "examples.fastapi_app", raising=False)
    module = importlib.import_module("examples.fastapi_app")
    worker = [program("stem-worker"), "examples.fastapi_app:tasks"]

    with running(worker, env=environment(STEM_BROKER_URL=server.url)) as work:
        async with web(module) as client:
            order = {"report_id": "monthly", "pages": 2}
            accepted = await client.post("/reports", json=order, headers={"Idempotency-Key": "first"})
            assert (accepted.status_code, accepted.json()) == (202, {"id": "first"})

            async def succeeded() -> bool:
                return bool((await client.get("/tasks/first")).json()["state"] == "succeeded")

            await eventually(succeeded, 20)
            status = (await client.get("/tasks/first")).json()
            assert status["result"] == {"report": "monthly", "pages": 2}

            again = await client.post("/reports", json=order, headers={"Idempotency-Key": "first"})
            assert (again.status_code, again.json()) == (202, {"id": "first"})
            other = await client.post("/reports", json={"report_id": "x"}, headers={"Idempotency-Key": "first"})
            assert (other.status_code, other.json()["error"]) == (409, "TaskConflictError")

            wrong = await client.post("/reports", json={"report": "monthly"})
            assert (wrong.status_code, wrong.json()["error"]) == (400, "InvalidArgumentsError")
            assert "report_id" in wrong.json()["message"]
            assert (await client.get("/tasks/unknown")).status_code == 404

            server.kill9()
            began = time.monotonic()
            refused = await client.post("/reports", json=order)
            assert time.monotonic() - began < QUICKLY_S
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert "again" in refused.json()["message"]
            assert str(server.folder) not in refused.text

            server.start()
            assert (await client.post("/reports", json=order)).status_code == 202
        assert work.stop() == 0


def test_the_task_of_a_fastapi_handler_can_be_tested_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/frameworks.md says of tests: the memory broker, named by its URL."""
    monkeypatch.setenv("STEM_BROKER_URL", "memory://fastapi-test")
    monkeypatch.delitem(sys.modules, "examples.fastapi_app", raising=False)
    module = importlib.import_module("examples.fastapi_app")

    async def request() -> int:
        async with web(module) as client:
            return (await client.post("/reports", json={"report_id": "x"})).status_code

    assert asyncio.run(request()) == 202


class Shop:
    """The Django project in processes of its own: web server and worker on one SQLite file."""

    def __init__(self, database: Path, url: str) -> None:
        self.database = database
        self.env = environment(STEM_BROKER_URL=url, SHOP_DATABASE=str(database), DJANGO_SETTINGS_MODULE=SETTINGS)
        self.client = httpx.Client(timeout=20)

    def django(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "django", *words]

    def orders(self) -> int:
        with closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute("SELECT count(*) FROM django_shop_order").fetchone()[0])

    def spoil(self, order: int) -> None:
        """Make an order an open one again that the task does not take."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            changed = "UPDATE django_shop_order SET confirmed = 0, wishes = ? WHERE id = ?"
            connection.execute(changed, ('{"colour": "red"}', order))

    def order(self, *, card: str = "", **body: str) -> httpx.Response:
        return self.client.post("/orders", json={"email": "a@example.com", **body}, headers={"X-Card": card})

    def succeeded(self, task: str) -> bool:
        return self.state(task) == "succeeded"

    def state(self, task: str) -> str:
        found = self.client.get(f"/tasks/{task}")
        return str(found.json()["state"]) if found.status_code == 200 else str(found.status_code)


@pytest.mark.timeout(90)
def test_django(own_server: OwnServer, tmp_path: Path) -> None:
    """A task leaves with the commit and never without it; the worker needs no management command."""
    server = own_server(options=("--maxmemory-policy", "noeviction"))
    shop = Shop(tmp_path / "shop.sqlite3", server.url)
    migrated = run(shop.django("migrate", "--run-syncdb"), env=shop.env)
    assert migrated.returncode == 0, migrated.stderr

    with (
        shop.client,
        running(shop.django("runserver", "--noreload", "127.0.0.1:0"), env=shop.env) as site,
        running([program("stem-worker"), "examples.django_shop.worker:app"], env=shop.env) as work,
    ):
        address = r"server at (http://127\.0\.0\.1:[1-9]\d*)/"
        found = wait_until(lambda: re.findall(address, site.output), 20, what=site.output + site.errors)
        shop.client.base_url = found[0]

        accepted = wait_until(lambda: shop.order(language="de"), 20)
        assert (accepted.status_code, accepted.json()) == (202, {"order": 1, "task": "order-1"}), site.errors
        wait_until(functools.partial(shop.succeeded, "order-1"), 20)
        assert shop.client.get("/tasks/order-1").json()["result"] == "de: confirmed to a@example.com"

        rolled_back = shop.order(card="refused")
        invalid = shop.order(colour="red")
        assert (rolled_back.status_code, invalid.status_code) == (402, 400)
        assert invalid.json()["error"] == "InvalidArgumentsError"
        assert "colour" in invalid.json()["message"]
        assert (shop.orders(), shop.state("order-2")) == (1, "404")

        with ThreadPoolExecutor(8) as threads:
            many = list(threads.map(lambda _: shop.order(), range(16)))
        assert {each.status_code for each in many} == {202}, site.errors
        for answer in many:
            wait_until(functools.partial(shop.succeeded, answer.json()["task"]), 20)

        server.kill9()
        began = time.monotonic()
        refused = shop.order()
        assert time.monotonic() - began < QUICKLY_S
        assert (refused.status_code, refused.json()["order"], shop.orders()) == (503, 18, 18)
        server.start()
        resend = (
            "import examples.django_shop.worker\n"
            "from examples.django_shop.tasks import send_unconfirmed\nprint(send_unconfirmed())"
        )
        shop.spoil(1)
        resent = run([sys.executable, "-c", resend], env=shop.env)
        assert resent.stdout == "1\n", "one that cannot be sent does not keep the others"
        assert "order 1 was not sent" in resent.stderr
        wait_until(functools.partial(shop.succeeded, "order-18"), 20)
        assert (work.stop(), "Traceback" in work.errors, "Traceback" in site.errors) == (0, False, False)


def test_the_page_shows_what_the_examples_are() -> None:
    """Each Python sample of docs/frameworks.md stands so in an example, which the tests above run."""
    page = (ROOT / "docs/frameworks.md").read_text()
    examples = [path.read_text() for path in (ROOT / "examples").rglob("*.py")]

    samples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    assert len(samples) >= 5
    for sample in samples:
        assert any(sample in text for text in examples), sample
