"""From a key to what it changes: count, ask, count again, send, show the answers, offer to take it back.

The only place that holds what it takes to send something, and it holds nothing where the dashboard only looks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from stem.contracts import Broker
from stem.errors import BrokerError, BrokerRefusedError, StemError
from stem.text import clean
from stem_tui import actions, commands, deeds, figures, plans, prompt
from stem_tui.actions import BY_ID, Action
from stem_tui.deeds import Office, Receipt
from stem_tui.plans import Plan, Reckoned
from stem_tui.reckon import LOOKED_AT, Everything, reckon
from stem_tui.session import NOTICE_S, UNDO_S, Session
from stem_tui.theme import Cell
from stem_tui.widgets.dialogs import Answered, Confirm, Menu, Prompt
from stem_tui.work import work

if TYPE_CHECKING:
    from textual.widget import Widget

    from stem_tui.app import StemTUI
    from stem_tui.screens.base import LiveScreen

    Place = tuple[LiveScreen | None, Widget | None]

GROWTH: Final = 0.1
"""A queue that never stands still is asked about twice; then a yes holds while it has grown by no more than this."""


class Acting:
    """Belongs to the app and its event loop.

    Args:
        broker: is only read here: what is sent goes through the office.
        office: None sends nothing, ever.
    """

    def __init__(self, app: StemTUI, session: Session, broker: Broker, office: Office | None) -> None:
        self._app = app
        self._session = session
        self._broker = broker
        self._office = office

    def start(
        self,
        action: Action,
        rows: Sequence[Any],
        *,
        which: Everything | None = None,
        way: str = "",
        for_s: float | None = None,
    ) -> None:
        """Begin to do this to these rows, or to all tasks that `which` means.

        Args:
            way: of a toggle: which way; else the rows say.
        """
        if not rows and which is None:
            return
        if not action.changes:
            self._app.ask_stack(rows[0])
        elif self._office is None or not self._session.writes:
            self._say(Cell(f"! {action.label.lower()}: {self._session.locked}, nothing was sent", "warn"))
            self._app.draw_now()
        elif action.pauses and action.scope == "task" and not all(row.task for row in rows):
            why = "the name of this task is not known (yet), nothing was sent"
            self._say(Cell(f"! {action.label.lower()}: {why}", "warn"))
            self._app.draw_now()
        elif action.name == "pause-for" and for_s is None:
            self._ask_how_long(action, rows, which)
        else:
            # Which way all that no list holds is to go is known once it is counted.
            if not way and (which is None or for_s is not None):
                way = plans.way_of(action, rows, self._session.state)
            self._run(Plan(action=action, rows=list(rows), way=way, for_s=for_s if way == "pause" else None), which)

    def _say(self, *cells: Cell, seconds: float = NOTICE_S) -> None:
        """Say something of a deed. What could be taken back until now is another one, and stands beside it no more."""
        self._session.undo = None
        self._session.say(*cells, seconds=seconds)

    def _run(self, plan: Plan, which: Everything | None = None, *, undoes: bool = False) -> None:
        doing = work(self._carry_out, plan, which, self._place, undoes=undoes)
        self._app.run_worker(doing, group="deed", exit_on_error=False)

    def _ask_how_long(self, action: Action, rows: Sequence[Any], which: Everything | None) -> None:
        plan = Plan(action=action, rows=list(rows), way="pause")

        def answered(text: str | None) -> None:
            if text:
                self.start(action, rows, which=which, way="pause", for_s=prompt.seconds(text))

        title = f"Pause {'everything' if which is not None else plans.subject(plan)} for how long?"
        self._app.push_screen(
            Prompt(self._session.look, title, "30s 10m 2h 1d: then it resumes by itself", prompt.seconds), answered
        )

    # ---------------------------------------------------------------------------------------------------- carrying out

    async def _carry_out(self, plan: Plan, which: Everything | None, there: Place, *, undoes: bool) -> None:
        session = self._session
        if not undoes:
            agreed = await self._survived(plan, self._agreed(plan, which, there), sent=False)
            if agreed is None:
                return
            plan = agreed
        self._say(Cell(f"… {plans.described(plan)}", "dim"), seconds=60)
        self._app.draw_now()
        assert self._office is not None  # without one, nothing gets this far
        screen = self._app.screen
        was = plans.before(plan, session.state, session.broker_ms)
        receipt = await self._survived(plan, deeds.carry_out(plan, self._office), sent=True)
        if receipt is not None:
            asks = plans.tier(plan, many=len(plan.rows) > 1, production=session.production) > 0
            undo = receipt.undo and was and replace(receipt.undo, way=was.way, for_s=was.for_s, reason=was.reason)
            receipt = replace(receipt, undo=undo, command=self.command(plan) or "")
            # Nobody waits for the answers to what was not asked about: they open over no other screen, and take no key.
            self._concluded(
                receipt, show=(asks and not undoes) or (receipt.verdict != "ok" and self._app.screen is screen)
            )
        session.feed.hurry()
        self._app.draw_now()

    async def _survived(self, plan: Plan, doing: Any, *, sent: bool) -> Any:
        """Return what it came to; None where it failed, which is said."""
        try:
            return await doing
        except StemError as error:
            self._failed(plan, error, sent=sent)
        except Exception as error:
            self._app.remember(error)
        self._app.draw_now()
        return None

    def _failed(self, plan: Plan, error: StemError, *, sent: bool) -> None:
        """Say it in one line that begins with what counts; all of it stands with the answers."""
        session, deed = self._session, plans.described(plan)
        # Of a deed in several commands the first ones may have been stored; and after it was stored, the answers of
        # those who do it are refused or lost like anything else.
        look = "look whether it was applied"
        if not sent:
            words = f"{deed}: nothing was sent: {clean(error, 200)}"
        elif isinstance(error, BrokerRefusedError):
            words = f"{deed}: refused ({clean(error.code, 20)}); {look}"
        else:
            words = f"{deed}: {look}: {clean(error, 200)}" if isinstance(error, BrokerError) else f"{deed}: {error}"
        lines = [[Cell(f"   {line}")] for line in textwrap.wrap(clean(error, 1_000), 70)]
        receipt = Receipt(verdict="failed", headline=clean(words, 300), lines=lines, command=self.command(plan) or "")
        session.receipt = receipt
        self._say(Cell(f"✖ {receipt.headline}", "bad"), Cell(" · a answers", "dim"), seconds=20)

    async def _agreed(self, plan: Plan, which: Everything | None, there: Place) -> Plan | None:
        """Ask, as much as the plan deserves, if keys still go `there`; return what was agreed to, None for nothing."""
        session = self._session
        many = which is not None or len(plans.targets(plan, session.state)) > 1
        tier = plans.tier(plan, many=many, production=session.production)
        if tier == 0:
            return plan
        if which is not None:
            self._say(Cell(f"… counting what {plan.verb} would be done to", "dim"), seconds=60)
            self._app.draw_now()
        found, before = await self._reckon(plan, which), None
        if which is not None and not plan.way:
            plan = replace(plan, way=plans.way_of(plan.action, found.rows, session.state))
        while True:
            if not found.amount:
                words = f"{plan.verb} {plans.subject(plan)}: there is nothing (any more) that it could be done to"
                if found.cut:
                    words = f"{plan.verb}: nothing among the first {LOOKED_AT:,} tasks: do it in the tab of one state"
                self._say(Cell(f"! {words}", "warn"))
                self._app.draw_now()
                return None
            meant = replace(plan, rows=found.rows, amounts=found.amounts)
            agreed = frozenset(plans.targets(meant, session.state))
            question = plans.question(
                meant,
                found,
                tier,
                command=self.command(meant),
                namespace=session.namespace,
                before=before,
                width=min(78, int(self._app.size.width * 0.96)) - 8,
            )
            if not self._in_place(there):
                # Its keys would be those of somebody who types something else by now.
                late = "the question comes too late, nothing was sent: press again"
                self._say(Cell(f"! {plans.described(meant)}: {late}", "warn"))
                self._app.draw_now()
                return None
            session.notice = None  # it was being counted
            screen, focused = there
            if screen is not None and screen.focused is None:
                screen.set_focus(focused)  # the terminal has lost the focus, and would get back to any other panel
            if not await self._app.push_screen_wait(Confirm(session.look, question)):
                self._say(Cell(f"{plans.described(meant)}: not sent", "dim"), seconds=3)
                self._app.draw_now()
                return None
            again = await self._reckon(plan, which)
            held = self._held(replace(plan, rows=again.rows), agreed)
            if held and _holds(found, again, same=len(held) == len(found.rows), asked_twice=before is not None):
                return replace(meant, rows=held, amounts=_least(found, again))
            found, before = again, found.amount

    @property
    def _place(self) -> Place:
        """Where the keys go, or will once the dialog in view has closed."""
        screen = self._app.live_screen
        return screen, None if screen is None else screen.focused

    def _in_place(self, there: Place) -> bool:
        """Say whether the keys go where they went when the deed was begun."""
        screen, focused = self._place
        # Nothing has the focus while the terminal itself has lost it.
        return self._app.screen is screen is there[0] and focused in (there[1], None)

    def _held(self, plan: Plan, agreed: frozenset[str]) -> list[Any]:
        """Return the rows of a plan that a yes to these targets covers."""
        state = self._session.state
        return [row for row in plan.rows if agreed.issuperset(plans.targets(replace(plan, rows=[row]), state))]

    async def _reckon(self, plan: Plan, which: Everything | None) -> Reckoned:
        return await reckon(plan, self._broker, self._session.state, which)

    def _concluded(self, receipt: Receipt, *, show: bool) -> None:
        session = self._session
        session.receipt = receipt
        stamp = figures.clock(session.broker_ms)  # also where the picture is frozen: it is done now
        self._say(receipt.sign, Cell(f" {receipt.headline}"), Cell(f" · {stamp}", "dim"), Cell(" · a answers", "dim"))
        session.undo = None if receipt.undo is None else (receipt.undo, session.clock.monotonic() + UNDO_S)
        if show:
            self.show_answers(receipt)

    # ----------------------------------------------------------------------------------------------------------- others

    def show_answers(self, receipt: Receipt) -> None:
        """Show who answered, and how."""
        lines = receipt.lines or [[Cell("   Nothing more to say.", "dim")]]
        head = [receipt.sign, Cell(f" {receipt.headline}", "title")]
        self._app.push_screen(Answered(self._session.look, head, lines, receipt.command))

    def undo(self) -> None:
        """Take back the last change, while that is offered."""
        session = self._session
        undo, session.undo = session.undo, None
        if undo is not None and session.clock.monotonic() <= undo[1] and session.writes and self._office is not None:
            self._run(undo[0], undoes=True)

    def command(self, plan: Plan) -> str | None:
        """Return the stemctl command that does the same."""
        names = plans.targets(plan, self._session.state)
        return commands.command(plan.action, names, way=plan.way, for_s=plan.for_s, where=self._session.where)

    def menu(self, kind: str, rows: Sequence[Any], which: Everything | None) -> None:
        """Show all that can be done with these rows."""
        session = self._session
        listed = [(each, session.writes or not each.changes) for each in actions.deeds(kind)]

        def command(action: Action) -> str:
            if which is not None:
                return ""  # which ids or names these are is known once they are counted: the question has it
            plan = Plan(action=action, rows=rows, way=plans.way_of(action, rows, session.state))
            return (self.command(plan) or "") if action.changes else ""

        def chosen(action_id: str | None) -> None:
            if action_id:
                self.start(BY_ID[action_id], rows, which=which)

        row = rows[0]
        name = f"{kind} {clean(getattr(row, 'name', '') or getattr(row, 'id', '') or getattr(row, 'task', ''), 60)}"
        title = "everything" if which is not None else name if len(rows) == 1 else f"{len(rows)} {kind}s"
        uncopied = "no command to copy" if which is None else "the question has the command"
        self._app.push_screen(Menu(session.look, title, listed, command, uncopied=uncopied), chosen)


def _holds(found: Reckoned, again: Reckoned, *, same: bool, asked_twice: bool) -> bool:
    """Say whether a yes to what was found still holds for what there is now.

    Args:
        same: all that was agreed to is still there.
    """
    if same and again.amount == found.amount:
        return True
    return asked_twice and 0 < again.amount <= found.amount * (1 + GROWTH)


def _least(found: Reckoned, again: Reckoned) -> dict[str, int]:
    """Return of each queue how many may go: no more than were agreed to."""
    return {name: min(count, again.amounts.get(name, 0)) for name, count in found.amounts.items()}
