"""What stands around every screen: header, rates, notice, hint, and the words of an empty panel. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from stem.observe.rates import Flow
from stem.observe.state import ClusterState
from stem.text import clean
from stem_tui import figures
from stem_tui.actions import hints
from stem_tui.session import Session
from stem_tui.theme import LINK, Cell

MIN_WIDTH: Final = 60
MIN_HEIGHT: Final = 16
_NOW_MINUTES: Final = 5
Tile = tuple[str, str, str, Sequence[float], str]
"""Name, value, tone of the value, series, and a note below."""


def header(session: Session, width: int) -> tuple[list[Cell], list[Cell]]:
    """Return both ends of line 1."""
    left = [Cell(" stem-tui", "title"), Cell(f"  {session.namespace}", "strong")]
    link, phase, now_s = session.link, session.phase, session.clock.monotonic()
    sign = LINK[phase]
    state = [Cell(f"  {sign.glyph} {sign.word}", sign.tone)]
    if phase == "LIVE":
        state.append(Cell(f" {link.rtt_ms:.0f}ms", "dim"))
    elif phase in ("DOWN", "FATAL"):
        state.append(Cell(f" {figures.span((now_s - link.since_s) // 1 * 1000)}", "bad"))
        left_s = max(0.0, link.next_s - now_s)
        trying = f" · retry {link.retry} in {left_s:.1f}s · r now" if left_s > 0 else f" · retry {link.retry} …"
        state.append(Cell(trying, "warn"))
    elif phase == "STALE" and link.answered_s is not None:
        state.append(Cell(f" no answer for {now_s - link.answered_s:.0f}s", "warn"))
    if width >= 100 or phase == "LIVE":
        room = width - sum(len(cell.text) for cell in left + state) - 30
        if room >= 12:
            left.append(Cell(f" {_shortened(session.url, room)}", "dim"))
    right = []
    if session.frozen_ms is not None:
        right.append(Cell(f" ‖ FROZEN {figures.clock(session.frozen_ms)}Z ", "warn"))
    elif session.stale and link.answered_ms:
        right.append(Cell(f" as of {figures.clock(session.now_ms)}Z ", "warn"))
    else:
        right.append(Cell(f" {figures.clock(session.now_ms)}Z ", "dim"))
    if not session.stale:
        right.append(Cell(f" {session.hz:.0f}Hz ", "dim"))
    if session.production:
        right.append(Cell(" PRODUCTION ", "bad"))
    right.append(Cell(" RO ", "warn") if session.read_only else Cell(" RW ", "dim"))
    return left + state, right


def _shortened(url: str, room: int) -> str:
    return url if len(url) <= room else "…" + url[-(room - 1) :]


def tiles(state: ClusterState, points: int) -> list[Tile]:
    """Return what flows: enqueued, succeeded, failed and retried a second, and how long tasks run."""
    ok, failed, retried = (state.went[name] for name in ("succeeded", "failed", "retried"))
    fails, tries = failed.rate(), retried.rate()
    now, hour = state.minutes.flow(_NOW_MINUTES), state.minutes.flow()
    timed = now if now.timed else hour
    p50, p95, p99 = (_percentile(timed, share) for share in (0.5, 0.95, 0.99))
    came = state.came.series(points)
    wait = timed.mean_wait_ms
    return [
        ("IN", f"{figures.rate(state.came.rate())}/s", "strong", came, f"max {figures.rate(max(came, default=0))}/s"),
        (
            "OK",
            f"{figures.rate(ok.rate())}/s",
            "ok",
            ok.series(points),
            f"{figures.count(hour.count('succeeded'))} in the last hour",
        ),
        (
            "FAIL",
            f"{figures.rate(fails)}/s" + (" !" if fails else ""),
            "bad" if fails else "dim",
            failed.series(points),
            f"retry {figures.rate(tries)}/s  revoked {figures.rate(state.went['revoked'].rate())}/s",
        ),
        (
            "RUN p95",
            p95,
            "strong" if timed.timed else "dim",
            [flow.percentile_ms(0.95) or 0.0 for flow in state.minutes.each_minute()],
            f"p50 {p50}  p99 {p99}" + ("" if wait is None else f"  waits {figures.span(wait)}"),
        ),
    ]


def _percentile(flow: Flow, share: float) -> str:
    value = flow.percentile_ms(share)
    return "–" if value is None else figures.about(value)


def rates(state: ClusterState, width: int) -> list[Cell]:
    """Return what flows as one line."""
    shown = tiles(state, 60)[:3]
    names = {"IN": "in", "OK": "ok", "FAIL": "fail"}
    each = max(0, min(30, (width - 44) // 3))
    line: list[Cell] = []
    for name, value, tone, series, _ in shown:
        line += [
            Cell(f" {names[name]} ", "dim"),
            Cell(f"{value:<8}", tone),
            Cell(figures.spark(series, each), "bad" if name == "FAIL" else "accent"),
            Cell("  "),
        ]
    return line


def tabs(names: Sequence[str], counts: Sequence[str], here: int, width: int) -> tuple[list[Cell], list[Cell]]:
    """Return the line of states, with their counts; those about the one chosen, where there is no room for all."""
    shown = [f" {name.upper() if at == here else name}" for at, name in enumerate(names)]
    room = width - 8
    if sum(len(name) + 1 for name in shown) + sum(len(count) + 1 for count in counts) > room:
        # Empty ones are named without their count, so that those with something in them have room for it.
        counts = [count if at == here or count != "0" else "" for at, count in enumerate(counts)]
    sizes = [len(name) + 1 + (len(count) + 1 if count else 0) for name, count in zip(shown, counts, strict=True)]
    first, last = here, here + 1
    taken = sizes[here]
    while first > 0 or last < len(names):
        # It grows to both sides; the right one first, since reading goes that way.
        if last < len(names) and taken + sizes[last] <= room:
            taken, last = taken + sizes[last], last + 1
        elif first > 0 and taken + sizes[first - 1] <= room:
            first -= 1
            taken += sizes[first]
        else:
            break
    line = [Cell("…" if first else " ", "faint")]
    for at in range(first, last):
        line.append(Cell(shown[at], "title" if at == here else "dim"))
        if counts[at]:
            line.append(Cell(f" {counts[at]}", "strong" if at == here else "faint" if counts[at] == "0" else "text"))
        line.append(Cell(" "))
    return line, [Cell("… " if last < len(names) else "", "faint"), Cell("← →", "key"), Cell(" ", "faint")]


def notice(session: Session) -> tuple[list[Cell], list[Cell]]:
    """Return the line of news: what was just done, else what is wrong with the picture."""
    state, now_s = session.state, session.clock.monotonic()
    right: list[Cell] = []
    if state.incomplete(session.now_ms) and state.gap_ms > session.gap_seen_ms:
        many = f"gap {state.missed:,} events" if state.missed else "gap: events missed"
        right.append(Cell(f" ! {many} · {figures.clock(state.gap_ms)} · esc ", "warn"))
    if session.notice is not None and now_s < session.notice.until_s:
        left = [Cell(" "), *session.notice.cells]
        if session.undo is not None and now_s < session.undo[1]:
            right.append(Cell(f" u undo ({session.undo[1] - now_s:.0f}s) ", "key"))
        return left, right
    if session.phase in ("DOWN", "FATAL", "CONNECTING") and session.link.error:
        return [Cell(f" ✖ {session.link.error}", "bad")], right
    if state.events_error:
        return [Cell(f" ! no events: {state.events_error}", "warn")], right
    if state.refused:
        parts = sorted(state.refused)
        words = f" ! the server does not show {', '.join(parts)}: {state.refused[parts[0]]}"
        return [Cell(words, "warn")], right
    info = state.info
    if info is not None and info.policy not in ("noeviction", ""):
        words = f" ! the server may drop tasks: maxmemory-policy is {clean(info.policy, 40)}, set noeviction"
        return [Cell(words, "warn")], right
    if info is not None and not info.writable:
        return [Cell(" ✖ the server takes no writes (memory, disk, or it is a replica)", "bad")], right
    if info is not None and not right:
        memory = f"  {figures.size(info.used_memory_bytes)}" if info.used_memory_bytes else ""
        right.append(Cell(f" {clean(info.kind, 20)} {clean(info.version, 20)}{memory} ", "faint"))
    return [], right


def hint(
    session: Session, kinds: Collection[str], width: int, *, filtering: bool = False
) -> tuple[list[Cell], list[Cell]]:
    """Return the keys that matter now, as many as there is room for; those that cannot work are grey."""
    if filtering:
        keys = [Cell(" ⏎", "key"), Cell(" keep ", "dim"), Cell("esc", "key"), Cell(" clear", "dim")]
        return [*keys, Cell("  word  !not  /regex/  name:mail.*  state:failed  q:default  age>10s", "faint")], []
    line: list[Cell] = [Cell(" ")]
    room = width - 8
    for action, works in hints(kinds, writes=session.writes):
        room -= len(action.shown) + len(action.label) + 3
        if room >= 0:
            line.append(Cell(action.shown, "key" if works else "faint"))
            line.append(Cell(f" {action.label}  ", "dim" if works else "faint"))
    return line, [Cell("?", "key"), Cell(" Help ", "dim")]


def empty(session: Session, kind: str, *, filtered: bool = False) -> list[str]:
    """Return what an empty panel says: why, and what to do."""
    if session.link.answered_s is None:
        if session.phase in ("DOWN", "FATAL"):
            return [f"No answer from {session.url} yet.", "This screen fills by itself as soon as there is one."]
        return [f"Asking {session.url} …"]
    if filtered:
        return ["No row passes the filter. esc clears it."]
    return {
        "queue": ["No queues yet. Enqueue something:", "stemctl enqueue NAME key=value"],
        "worker": ["No workers seen. Start one:", "stemctl worker start mypkg.tasks:app"],
        "failure": ["Nothing failed in the last hour."],
        "task": ["Nothing here."],
        "asking": ["asking …"],
        "audit": ["Nobody has commanded anything yet. Pauses, revokes, stops and purges stand here with who and why."],
        "name": ["Nothing of it ran in the last hour."],
        "running": ["Nothing is running."],
        "event": ["Quiet. Failures, retries, revokes, and workers that come and go appear here."],
    }.get(kind, ["Nothing here."])
