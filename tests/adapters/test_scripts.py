"""Rules that every script keeps, read from its text: commands that would lose or rob a task have no place in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import stem
from stem.adapters.redis.client import INCLUDES

FOLDER: Final = Path(stem.__file__).parent / "adapters/redis/scripts"
SCRIPTS: Final = {
    path.stem: "\n".join(line.partition("--")[0] for line in path.read_text(encoding="utf-8").splitlines())
    for path in sorted(FOLDER.glob("*.lua"))
}
INCLUDED: Final = {part for parts in (("lib",), *INCLUDES.values()) for part in parts}
CAP: Final = r"MAXLEN|MINID|XTRIM"


def uses(pattern: str) -> list[tuple[str, str]]:
    """Return script and line, wherever the pattern occurs."""
    return [
        (name, line.strip()) for name, code in SCRIPTS.items() for line in code.splitlines() if re.search(pattern, line)
    ]


def test_the_scripts_are_there() -> None:
    assert len(SCRIPTS) >= 20
    assert SCRIPTS.keys() >= INCLUDED


def test_no_script_claims_an_entry() -> None:
    """XCLAIM and XAUTOCLAIM ask for no owner: ownership is in the record, and reclaiming goes by the leases alone."""
    assert uses(r"XCLAIM|XAUTOCLAIM") == []


def test_nothing_is_read_without_being_owned() -> None:
    """NOACK, or XREAD on a task's stream, would forget a task with its reply."""
    assert uses(r"NOACK|'XREAD'") == []


def test_only_logs_are_capped() -> None:
    """A cap on a stream of tasks drops the oldest of them, waiting or running."""
    capped = {(name, match[1]) for name, line in uses(CAP) if (match := re.search(r"XADD', ([^,]+), '", line))}
    keys = {name: dict(re.findall(r"local (\w+) = P \.\. '([^']+)'", code)) for name, code in SCRIPTS.items()}

    assert {keys[name].get(key, key) for name, key in capped} == {"control:log", "P .. 'audit'", "events", "reply:"}
    assert len(uses(CAP)) == len(capped)


def test_groups_begin_at_the_start_of_their_stream() -> None:
    """One made at `$` passes over what was there before it."""
    made = uses("'XGROUP', 'CREATE'")

    assert made
    assert [line for _, line in made if "'stem', '0', 'MKSTREAM'" not in line] == []


def test_a_consumer_that_owns_something_is_never_deleted() -> None:
    """What it owned could be delivered to nobody any more: the look and the deletion are one line of one function."""
    deleted = uses("DELCONSUMER")

    assert [name for name, _ in deleted] == ["records"]
    assert all("#pending == 0 then" in line for _, line in deleted)


def test_every_script_may_run_when_memory_is_full_but_those_that_take_new_tasks_and_events() -> None:
    """Workers must be able to finish what they have; what is refused is more work, and what only watchers miss."""
    heads = {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0]
        for path in FOLDER.glob("*.lua")
        if path.stem not in INCLUDED
    }

    assert {name for name, head in heads.items() if head != "#!lua flags=allow-oom"} == {"emit", "enqueue"}
    assert heads["emit"] == heads["enqueue"] == "#!lua"


def test_a_wake_up_on_the_control_channel_carries_no_change() -> None:
    """It says "look": what is acted on is the log. Only a question, which changes nothing, is said along."""
    sent = [line for _, line in uses(r"C \.\. 'control'")]

    assert sorted(sent) == [
        "if others == 0 then redis.call('PUBLISH', C .. 'control', 'watch') end",
        "redis.call('PUBLISH', C .. 'control', carried or epoch)",
    ]
    (carried,) = [line for _, line in uses("local carried")]
    assert carried.startswith("local carried = asks and change == '' and ")
