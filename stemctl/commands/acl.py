"""`stemctl acl`: the server's users that Stem needs. Talks to no broker."""

from __future__ import annotations

from typing import Annotated

import typer

from stemctl import exits
from stemctl.options import Call, Command, command, group

User = Annotated[
    str | None,
    typer.Option(
        "--user", metavar="ROLE", help="Only producer, worker, operator or viewer; else all.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    acl = typer.Typer(help="The least rights on a Redis server.", callback=group, no_args_is_help=True)
    acl.command("print", cls=Command)(print_)
    app.add_typer(acl, name="acl")


@command
async def print_(call: Call, user: User = None) -> int:
    """Print ACL SETUSER lines for the server's users, without passwords."""
    from stem.adapters.connect import access_rules

    rules = access_rules(call.options.namespace or call.config().namespace)
    if user is not None:
        if user not in rules:
            raise exits.usage(f"--user {user} is not known", f"use one of {', '.join(rules)}")
        rules = {user: rules[user]}

    def text() -> None:
        for rule in rules.values():
            call.out.line(rule)

    return call.finish({"rules": rules}, text)
