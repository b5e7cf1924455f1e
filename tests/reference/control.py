"""The control commands: their arguments, what each stage means, and how workers refuse. Names are the program's own."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Final, get_args

from stem import authority
from stem.control import guard, responder
from stem.messages.command import DISTRUST
from tests.reference.markdown import code, table

COMMANDS: Final = {
    "ping": ("`nonce`", "answers with the nonce, `loop_age_ms`, `in_flight`, `concurrency`, `state`", "-"),
    "inspect": ("`what`, see below", "answers with what was asked for", "-"),
    "stats": ("-", "answers with its heartbeat, rates, pools and children", "-"),
    "revoke": (
        "`ids`, `terminate`",
        "none of them starts here any more; the reply says which it holds (`held`)",
        "those have ended; `ended` says how",
    ),
    "pause": ("stored: kind, name, until", "nothing more is taken or started", "the same moment"),
    "resume": ("stored: kind, name", "work is taken again", "the same moment"),
    "drain": ("-", "nothing more is taken", "nothing is in flight"),
    "undrain": ("-", "work is taken again", "the same moment"),
    "shutdown": ("`mode`: " + " ".join(map(code, responder.MODES)), "the order has arrived", "right before it is gone"),
}

INSPECTIONS: Final = {
    "active": "tasks whose handlers run, up to 200, with how long",
    "reserved": "tasks that are here and have not begun",
    "revoked": "the newest ids it was told to revoke",
    "registered": "task names, with their kind and isolation",
    "queues": "queues it takes from, which are paused, whether it is paused or draining",
    "children": "child processes with tasks done, memory and age",
    "config": "its settings, without secrets",
    "stack": "where every thread, coroutine and child stands",
}

ERRORS: Final = {
    "unsupported": "this worker's version does not know the command",
    "invalid": "an argument that the command does not take",
    "failed": "an error in the worker; its log has the traceback",
    "busy": f"more than {responder.MOST_AT_ONCE} commands at once: ask again",
    "signature-missing": "the worker has keys for commands, and this one is not signed",
    "signature-invalid": "no key of the worker's made this signature, or the command was changed",
    "role-refused": "the key's role does not cover the command",
    "expired": "it came later than its signature is good for, or before it was issued",
    "replayed": "it has been carried out before",
}


def commands() -> str:
    """Return one row per command: arguments, stages, and the roles that may send it."""
    roles = get_args(authority.Role)
    rows = [
        [code(name), taken, applied, effect, ", ".join(role for role in roles if authority.may(role, name))]
        for name, (taken, applied, effect) in COMMANDS.items()
    ]
    return table(["command", "arguments", "stage `applied`", "stage `effect`", "roles"], rows)


def inspections() -> str:
    """Return what `inspect` can be asked for."""
    return table(["`inspect`", "answer"], [[code(name), meaning] for name, meaning in INSPECTIONS.items()])


def errors() -> str:
    """Return the codes with which a worker refuses."""
    return table(["code", "meaning"], [[code(name), meaning] for name, meaning in ERRORS.items()])


def handled() -> set[str]:
    """Return the commands that a worker carries out, read from its source."""
    tree = ast.parse(inspect.getsource(responder))
    acts = next(each for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef) and each.name == "_act")
    patterns = [each.value for each in ast.walk(acts) if isinstance(each, ast.MatchValue)]
    return {str(each.value) for each in patterns if isinstance(each, ast.Constant)}


def refusals() -> set[str]:
    """Return the codes with which a worker refuses, read from its source."""
    found = set(DISTRUST)
    for module in (responder, guard):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                found |= {str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant)}
    return found
