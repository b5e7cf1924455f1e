"""Every key of the table, pressed on every screen: nothing breaks, and what is no key does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from textual.screen import ModalScreen

from stem_tui.actions import ACTIONS
from stem_tui.app import StemTUI
from tests.tui.still import text_of
from tests.tui.test_deeds import app_over, stocked
from tests.waiting import eventually

SCREENS: dict[str, tuple[str, ...]] = {
    "overview": ("1",),
    "queues": ("2",),
    "queue": ("2", "enter"),
    "workers": ("3",),
    "worker": ("3", "enter"),
    "tasks": ("4",),
    "task": ("4", "enter"),
    "events": ("5",),
    "audit": ("6",),
    "help": ("1", "question_mark"),
}
LEAVING = {"ctrl+c", "ctrl+q", "q"}
KEYS = sorted({key for action in ACTIONS for key in action.keys} - LEAVING)
NO_KEYS = ("b", "m", "B", "V", "f5", "ctrl+t", "ctrl+n", "ctrl+g", "backspace", "delete", "exclamation_mark")


async def go(app: StemTUI, pilot: Any, screen: str) -> None:
    """Come to a screen from wherever a key has led."""
    while isinstance(app.screen, ModalScreen):
        await pilot.press("escape")
    app.session.frozen_ms = None
    await app.show_tasks("queued", "")
    await app.action_mode("overview")
    for key in SCREENS[screen]:
        await pilot.press(key)
    await pilot.pause()


@pytest.mark.timeout(120)  # some seventy keys
@pytest.mark.parametrize("screen", SCREENS)
async def test_every_key_on_every_screen(screen: str) -> None:
    broker, made = await stocked("t-1", "t-2", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(60, 16)) as pilot:
        await go(app, pilot, screen)
        home = type(app.screen)

        async def back() -> bool:
            if type(app.screen) is not home:
                await go(app, pilot, screen)
            return type(app.screen) is home

        for key in KEYS:
            await pilot.press(key)

            assert app.is_running, key
            assert app.errors == [], key
            while isinstance(app.screen, ModalScreen):
                await pilot.press("escape")
            # What a key began may open its answers on the way back.
            await eventually(back, 20, what=f"back on {screen} after {key}")


@pytest.mark.parametrize("screen", ["overview", "tasks", "task", "help"])
async def test_what_is_no_key_does_nothing(screen: str) -> None:
    broker, made = await stocked("t-1", "t-2", worker=True)
    app = app_over(broker, made)
    async with app.run_test(size=(60, 16)) as pilot:
        await go(app, pilot, screen)
        await eventually(lambda: screen != "task" or "id          t-1" in text_of(app))
        await pilot.pause()
        before = text_of(app)

        for key in NO_KEYS:
            await pilot.press(key)

        app.draw_now()
        await pilot.pause()
        assert text_of(app) == before
        assert await broker.census.pauses() == []


@pytest.mark.parametrize("key", sorted(LEAVING))
async def test_these_leave(key: str) -> None:
    broker, made = await stocked("t-1")
    app = app_over(broker, made)
    async with app.run_test(size=(60, 16)) as pilot:
        await pilot.press(key)
        await pilot.pause()

        assert app.return_code == 0
