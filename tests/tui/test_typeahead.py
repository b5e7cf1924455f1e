"""What is typed faster than the dashboard follows means what it would have meant when typed slowly."""

from __future__ import annotations

import asyncio

from textual import events
from textual.keys import _character_to_key
from textual.widgets import Input

from stem_tui.app import StemTUI
from stem_tui.screens.base import FilterInput
from stem_tui.widgets.command import CommandLine
from tests.tui.still import make_app, make_session, settled
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


async def test_a_key_whose_widget_goes_away_holds_the_next_ones_up_for_a_moment_only() -> None:
    app = make_app(make_session())
    async with app.run_test(size=(160, 45)) as pilot:
        await settled(pilot)
        line = Input()
        await app.screen.mount(line)
        app.screen.set_focus(line)

        type_at_once(app, "a")
        removed = asyncio.ensure_future(_remove(line))
        type_at_once(app, "b")
        await removed
        type_at_once(app, "5")

        await eventually(lambda: app.current_mode == "events")


async def _remove(line: Input) -> None:
    await line.remove()
