"""health: can this fleet do its work? Broker reachable, writable, safe for tasks, somebody there to run them."""

from __future__ import annotations

import typer

from stemctl import exits
from stemctl.options import Call, Command, command
from stemctl.output import duration, size


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("health", cls=Command)(health)


@command
async def health(call: Call) -> int:
    """Check the broker and that workers are there: exit 0 well, 1 not well, 69 unreachable."""
    from stem.control.diagnose import diagnose
    from stem.control.target import live

    async with call.broker() as broker:
        info = await broker.census.info()
        workers = live(await broker.presence.workers())
    wedged = [seen.heartbeat.name for seen in workers if diagnose(seen) == "wedged"]
    checks: list[tuple[str, bool, str, str]] = [
        ("reachable", True, f"{info.kind} {info.version} at {info.url}", ""),
        (
            "writable",
            info.writable,
            "it takes writes" if info.writable else info.refusal or "it takes no writes",
            "see why: stemctl doctor",
        ),
        (
            "policy",
            info.policy == "noeviction",
            f"maxmemory-policy {info.policy}",
            "set maxmemory-policy noeviction: anything else throws tasks away when memory is full",
        ),
        (
            "workers",
            bool(workers),
            f"{len(workers)} live workers",
            "start one: stem-worker mypkg.tasks:app",
        ),
        (
            "loops",
            not wedged,
            "no work loop is blocked" if not wedged else f"wedged: {', '.join(wedged)}",
            "see where: stemctl inspect stack",
        ),
    ]
    warnings = [] if info.persistent else ["the server keeps no append-only file: a crash of it loses tasks"]
    bad = [check for check in checks if not check[1]]

    def text() -> None:
        call.out.table(
            ["CHECK", "OK", "FOUND"], [[name, "yes" if well else "NO", found] for name, well, found, _ in checks]
        )
        call.out.note(
            f"up {duration(info.uptime_s * 1000)}, {info.clients} clients, {size(info.used_memory_bytes)} used"
        )

    data = {
        "reachable": True,
        "writable": info.writable,
        "policy": info.policy,
        "persistent": info.persistent,
        "workers": len(workers),
        "server": {"kind": info.kind, "version": info.version, "url": info.url, "namespace": info.namespace},
        "checks": [
            {"name": name, "ok": well, "found": found, "fix": "" if well else fix} for name, well, found, fix in checks
        ],
    }
    problem = None
    if bad:
        first = bad[0]
        problem = exits.unhealthy(first[0], f"{first[0]}: {first[2]}", first[3])
    return call.finish(data, text, warnings=warnings, problem=problem)
