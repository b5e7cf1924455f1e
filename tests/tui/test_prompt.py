"""The command line: what a line means, what could come next, and what is said of one that means nothing."""

from __future__ import annotations

import pytest

from stem_tui.actions import ACTIONS
from stem_tui.prompt import Known, PromptError, candidates, completed, parse, seconds

KNOWN = Known(
    kind="queue",
    words={
        "queue": ["default", "reports", "reports-old", "\\x1b[2J"],
        "worker": ["w-117"],
        "theme": ["stem-dark", "stem-deut"],
        "filter": ["state:", "name:", "age>10s"],
        "duration": ["10m"],
    },
)


@pytest.mark.parametrize(
    ("line", "action", "argument", "name"),
    [
        ("tasks state:failed age>1m", "app.tasks", "state:failed age>1m", "tasks"),
        (":queue reports", "command.queue", "reports", "queue"),
        ("worker  w-117 ", "command.worker", "w-117", "worker"),
        ("theme deut", "command.theme", "deut", "theme"),
        ("q", "app.quit", "", "q"),
        ("quit", "app.quit", "", "quit"),
        ("pause", "queue.pause", "", "pause"),
        ("pause 10m", "queue.pause", "10m", "pause"),
        ("resume", "queue.pause", "", "resume"),
        ("purg", "queue.purge", "", "purge"),
        ("export x.csv", "app.export", "x.csv", "export"),
        ("everything", "list.everything", "", "everything"),
    ],
)
def test_a_line_means_an_action(line: str, action: str, argument: str, name: str) -> None:
    order = parse(line, KNOWN)

    assert order is not None
    assert (order.action.id, order.argument, order.name) == (action, argument, name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "there is no command nonsense"),
        ("queue", "queue needs the name of a queue"),
        ("purge reports", "purge takes nothing more"),
        ("pause soon", "soon is no length of time: write 30s, 10m"),
        ("pause 1ms", "at least 1s"),
        ("revoke", "revoke is for a task: put the cursor on one"),
        ("e", "which one?"),
        ("$(reboot)", "there is no command"),
    ],
)
def test_a_line_that_means_nothing_says_what_would(line: str, said: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse(line, KNOWN)

    assert said in str(caught.value)


@pytest.mark.parametrize("line", ["", "  ", ":", " : "])
def test_an_empty_line_is_nothing(line: str) -> None:
    assert parse(line, KNOWN) is None


def test_the_same_name_means_what_the_row_is() -> None:
    found = {kind: parse("pause", Known(kind=kind)) for kind in ("queue", "worker", "task", "failure")}

    assert {kind: order and order.action.id for kind, order in found.items()} == {
        kind: f"{kind}.pause" for kind in found
    }


def test_candidates_begin_with_what_the_row_can_do_and_explain_themselves() -> None:
    found = candidates("", KNOWN)

    assert [each.line for each in found[:3]] == ["pause", "pause-for", "replay"]
    assert all(each.help for each in found)
    assert {each.line.strip() for each in found} >= {"tasks", "queue", "worker", "quit", "export", "help"}


def test_candidates_follow_what_is_typed() -> None:
    assert [each.line for each in candidates("queue rep", KNOWN)] == ["queue reports", "queue reports-old"]
    assert [each.line for each in candidates("queue old", KNOWN)] == ["queue reports-old"]
    assert [each.line for each in candidates("tasks age>1m na", KNOWN)] == ["tasks age>1m name:"]
    assert [each.line for each in candidates("theme deu", KNOWN)] == ["theme stem-deut"]
    assert candidates("nonsense x", KNOWN) == []
    assert candidates("freeze now", KNOWN) == []
    assert "purge" in [each.line for each in candidates("revoked", KNOWN)], "found by what is said of it"


def test_tab_completes_as_far_as_all_agree_and_then_takes_the_first() -> None:
    assert completed("queue rep", candidates("queue rep", KNOWN)) == "queue reports"
    assert completed("que", candidates("que", KNOWN)) == "queue"
    assert completed("zzz", candidates("zzz", KNOWN)) == "zzz"


def test_every_action_that_has_a_name_can_be_called_by_it() -> None:
    for action in ACTIONS:
        if not action.listed:
            continue
        kind = action.scope if action.scope in ("queue", "worker", "task", "failure") else ""
        for name in action.names:
            order = parse(
                f"{name} {'10m' if action.takes == 'duration' else 'x'}" if action.takes else name, Known(kind=kind)
            )
            assert order is not None
            assert order.action is action, name


def test_lengths_of_time() -> None:
    assert [seconds(each) for each in ("30s", "10m", "2h", "1d")] == [30, 600, 7_200, 86_400]
