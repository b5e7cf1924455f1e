"""What is typed faster than the dashboard follows means what it would have meant when typed slowly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from textual import events
from textual.dom import DOMNode
from textual.keys import _character_to_key
from textual.widget import Widget

from stem_tui.app import StemTUI
from stem_tui.screens.base import FilterInput
from stem_tui.typeahead import LONGEST_S
from stem_tui.widgets.command import CommandLine
from tests.tui.still import make_app, make_session, settled, text_of
from tests.waiting import eventually


def type_at_once(app: StemTUI, text: str) -> None:
    """Send all the keys before the first of them is looked at; `\\n` and `\\x1b` are enter and escape."""
    special = {"\n": "enter", "\x1b": "escape"}
    for character in text:
        app.post_message(events.Key(special.get(character) or _character_to_key(character), character))


async def test_a_filter_typed_at_once_is_a_filter() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)

        type_at_once(app, "4/name:nothing")
        await eventually(lambda: app.current_mode == "tasks")
        line = app.screen.query_one(FilterInput)
        await eventually(lambda: line.value == "name:nothing", what="the whole filter stands there")

        assert line.has_focus


async def test_what_was_wrong_with_half_a_filter_is_not_said_of_the_whole() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)

        type_at_once(app, "4/name:")
        await eventually(lambda: "✗ name: needs a value" in text_of(app))
        type_at_once(app, "mail")

        await eventually(lambda: "/name:mail" in text_of(app))
        assert "needs a value" not in text_of(app)


async def test_keys_after_a_filter_go_to_the_list_again() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)

        type_at_once(app, "4/mail\n3")

        await eventually(lambda: app.current_mode == "workers", what="the last key changed the screen")
        await app.action_mode("tasks")
        assert app.screen.query_one(FilterInput).value == "mail"


async def test_a_command_typed_at_once_is_carried_out() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)

        type_at_once(app, ":theme light\n2")

        await eventually(lambda: app.theme == "stem-light", what="the command was taken whole")
        await eventually(lambda: app.current_mode == "queues")


async def test_a_dialog_left_at_once_is_left() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)

        type_at_once(app, ":nonsense\x1b?\x1b4")

        await eventually(lambda: app.current_mode == "tasks" and len(app.screen_stack) == 1)
        assert not isinstance(app.screen, CommandLine)


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_keys_keep_their_order_when_the_loop_stands_still(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than a key is waited for, when the first of many has only so many queues left to pass."""
    app = make_app(make_session())
    follow, stalls = app._ahead._follow, 0

    def stalling(key: int, way: Sequence[DOMNode], rounds: int) -> None:
        nonlocal stalls
        if rounds == 0 and len(way) == left and not stalls:
            stalls += 1
            time.sleep(LONGEST_S + 0.05)
        follow(key, way, rounds)

    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        monkeypatch.setattr(app._ahead, "_follow", stalling)
        type_at_once(app, "4/name:mail")

        await eventually(lambda: app.current_mode == "tasks")
        line = app.screen.query_one(FilterInput)
        await eventually(lambda: len(line.value) == len("name:mail"))
        assert line.value == "name:mail"
        assert stalls == 1


class Stuck(Widget, can_focus=True):
    """Takes a key and is not done with it before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def on_key(self, event: events.Key) -> None:
        event.stop()
        await self.let_go.wait()


async def test_a_widget_that_is_never_done_holds_the_next_keys_up_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(make_session())
    monkeypatch.setattr(StemTUI, "_means", _nothing)
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        stuck, panel = Stuck(), app.screen.focused
        await app.screen.mount(stuck)
        app.screen.set_focus(stuck)
        try:
            began_s = time.monotonic()
            type_at_once(app, "a")
            app.call_later(app.screen.set_focus, panel)
            type_at_once(app, "5")
            await eventually(lambda: app.current_mode == "events")

            assert time.monotonic() - began_s > LONGEST_S / 2, "it waited for the key before it"
        finally:
            stuck.let_go.set()


async def _nothing(_: StemTUI, key: str) -> bool:
    """Leave each key to the widget that has the focus."""
    return False
