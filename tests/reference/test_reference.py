"""The reference pages say what the program says, and describe everything that there is."""

from __future__ import annotations

import re

import pytest

from stem.control.responder import WHATS
from stem.signals import NAMES
from stem.worker import cli, lifecycle
from stemctl.main import MODULES
from tests.reference import commands, control, settings
from tests.reference.pages import ROOT, filled, pages


@pytest.mark.parametrize("page", list(pages()))
def test_page_is_as_the_program(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")

    assert text == filled(page, text), f"{page} is not as the program is: run `make docs`"


def test_every_variable_is_described_and_none_is_invented() -> None:
    known = {setting.name for setting in settings.settings()} | set(settings.ELSEWHERE)

    assert known == set(settings.MEANINGS), "say in tests/reference/settings.py what it means, then run `make docs`"


def test_every_variable_in_the_source_is_one_of_the_known() -> None:
    sources = [path for room in ("stem", "stemctl", "tui") for path in (ROOT / room).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bSTEM_[A-Z_]*[A-Z]\b(?!_)", path.read_text("utf-8"))}
    beginnings = {"STEM_CONTROL", "STEM_SIGNING"}
    private = {"STEM_DEMO_LEDGER"}  # from the demo to its own workers

    assert named - beginnings - private - set(settings.MEANINGS) == set()


def test_every_command_that_workers_know_is_described() -> None:
    assert set(control.COMMANDS) == control.handled()


def test_every_inspection_and_refusal_is_described() -> None:
    assert set(control.INSPECTIONS) == set(WHATS)
    assert set(control.ERRORS) == control.refusals()


def test_every_command_line_is_on_its_page() -> None:
    page = commands.stemctl()

    assert not [name for name in MODULES if f"`stemctl {name}" not in page]


def test_every_signal_is_on_its_page() -> None:
    page = (ROOT / "docs/signals.md").read_text("utf-8")

    assert not [name for name in NAMES if f"| `{name}` |" not in page]


def test_signals_that_wait_for_their_receivers_are_named() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "stem").rglob("*.py"))
    awaited = set(re.findall(r"(?:await |_tell\()StemSignals\.(\w+)\.emit\(", source))
    page = (ROOT / "docs/signals.md").read_text("utf-8")
    said = page[page.index("An `async` one is waited") : page.index("at the\n  others it is started")]

    assert set(re.findall(r"`(\w+_\w+)`", said)) | {"worker_child_init", "worker_child_shutdown"} == awaited


def test_every_exit_code_of_the_worker_is_described() -> None:
    named = (
        value
        for module in (cli, lifecycle)
        for name, value in vars(module).items()
        if name.startswith("EXIT_") or name.endswith("_EXIT")
    )

    assert {0, 1, *named} == set(commands.WORKER_EXITS)
