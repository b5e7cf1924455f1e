"""Fixtures for the command line: run it in this process, against a real server and a fresh namespace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from stemctl.main import main
from tests.cli.hands import HandMadeWorker
from tests.servers import Server


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of stemctl did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object it printed."""
        assert self.out.count("\n") == 1, f"not exactly one line on stdout: {self.out!r}"
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        return self.json["data"]


Cli = Callable[..., Ran]
OwnServer = Callable[..., Server]
Hire = Callable[..., HandMadeWorker]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run stemctl with nothing configured."""
    for name in ("STEM_BROKER_URL", "STEM_NAMESPACE", "STEM_SIGNING_KEYS", "STEM_RESULT_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        code = main(list(argv))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def cli(offline: Cli, monkeypatch: pytest.MonkeyPatch, valkey_url: str, namespace: str) -> Cli:
    """Run stemctl against a fresh namespace of the shared server."""
    monkeypatch.setenv("STEM_BROKER_URL", valkey_url)
    monkeypatch.setenv("STEM_NAMESPACE", namespace)
    return offline


@pytest.fixture
def hire(valkey_url: str, namespace: str) -> Iterator[Hire]:
    """Start hand-made workers in the same namespace; they end with the test."""
    with ExitStack() as stack:

        def start(name: str, **options: Any) -> HandMadeWorker:
            return stack.enter_context(HandMadeWorker(valkey_url, namespace, name, **options))

        yield start
