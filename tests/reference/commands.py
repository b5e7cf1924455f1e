"""The command lines, from the parsers that read them."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from stem.messages.command import DISTRUST
from stem.worker import lifecycle
from stem.worker.cli import parser as worker_parser
from stem_tui.__main__ import parser as tui_parser
from stemctl import exits, main
from stemctl.options import COMMON
from tests.reference.markdown import code, table

_BUILT_IN: Final = {"install_completion", "show_completion", "help"}

MEANINGS: Final = {
    exits.OK: "all applied",
    exits.FAILED: "some failed",
    exits.USAGE: "usage: an option, a value or a setting that cannot be meant",
    exits.NOTHING: "nothing matched: an unknown queue, task or worker, or no worker at all",
    exits.SILENT: "some did not answer",
    exits.REFUSED: "refused: needs `--yes`, no rights, a signature, a full queue",
    exits.UNREACHABLE: "broker unreachable",
    exits.WAITED_OUT: "`--wait` ran out, or `result` without it: the task has not ended",
    exits.INTERRUPTED: "interrupted",
}

WORKER_EXITS: Final = {
    0: "stopped as asked, everything settled or handed back",
    1: "stopped, and something could be neither settled nor handed back",
    2: "usage: an option, a setting or an application that cannot be used; no new start would mend it",
    69: "the embedded server does not start; one that is away, or refuses us but for rights, is waited for",
    lifecycle.WEDGED_EXIT: (
        "the work loop stood still for too long, the worker could not go on, or the application's own code failed "
        "while it was imported (other than by `ImportError` or `SyntaxError`): a new start may help"
    ),
    lifecycle.REFUSED_EXIT: "the server takes its user's rights or password away, or its data are of a newer Stem",
    130: "interrupted before it had started",
}


def stemctl() -> str:
    """Return every command of `stemctl` in the order of its help, then the common options."""
    top: Any = typer.main.get_command(main.build([]))
    parts = []
    for title, names in main.SECTIONS.items():
        parts.append(f"### {title}")
        parts += [part for name in names for part in _command(top.commands[name], f"stemctl {name}")]
    rows = [_option(param) for param in top.params if param.name in COMMON]
    parts += ["### Common options", table(["option", "default", "meaning"], rows)]
    return "\n\n".join(parts)


def stem_worker() -> str:
    """Return the options and exit codes of `stem-worker`."""
    codes = [[code(number), meaning] for number, meaning in WORKER_EXITS.items()]
    return "\n\n".join([*_arguments(worker_parser()), table(["exit code", "meaning"], codes)])


def stem_tui() -> str:
    """Return the options of `stem-tui`."""
    return "\n\n".join(_arguments(tui_parser()))


def exit_codes() -> str:
    """Return the exit codes of `stemctl`, each with the `error.code` words that go with it."""
    words: dict[int, set[str]] = {}
    for number, word in _problems():
        words.setdefault(number, set()).add(word)
    rows = [
        [code(n), MEANINGS[n], " ".join(map(code, sorted(words.get(n, ()))))] for n in sorted({*_numbers().values()})
    ]
    return table(["exit code", "meaning", "`error.code`"], rows)


def _command(found: Any, path: str) -> Iterator[str]:
    """Yield the parts of one command, or of all those below a group."""
    if hasattr(found, "commands"):
        for name, below in found.commands.items():
            yield from _command(below, f"{path} {name}")
        return
    arguments = [param for param in found.params if param.param_type_name == "argument"]
    own = [p for p in found.params if p.param_type_name == "option" and p.name not in {*COMMON, *_BUILT_IN}]
    usage = [path, *(_metavar(argument) for argument in arguments), *(["[OPTIONS]"] if own else [])]
    yield f"#### `{' '.join(usage)}`"
    yield _line(found.help)
    described = [argument for argument in arguments if argument.help]
    if described:
        yield table(
            ["argument", "default", "meaning"],
            [[code(_metavar(each)), _default(each), _line(each.help)] for each in described],
        )
    if own:
        yield table(["option", "default", "meaning"], [_option(param) for param in own])


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _option(param: Any) -> list[str]:
    takes = "" if param.is_flag else f" {param.metavar or param.type.name.upper()}"
    several = " (repeatable)" if param.multiple else ""
    names = ", ".join(code(f"{name}{takes}") for name in [*param.opts, *param.secondary_opts])
    return [names + several, _default(param), _line(param.help)]


def _default(param: Any) -> str:
    if param.required:
        return "required"
    return "" if param.default in (None, False, "") else code(param.default)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield parser.description or ""
    rows = []
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        takes = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
        with_value = "" if action.nargs == 0 else f" {takes}"
        names = ", ".join(code(name + with_value) for name in action.option_strings) or code(takes)
        several = " (repeatable)" if isinstance(action, argparse._AppendAction) else ""
        plain = action.default in (None, False, argparse.SUPPRESS)
        rows.append([names + several, "" if plain else code(action.default), _line(action.help)])
    yield table(["option", "default", "meaning"], rows)
    if parser.epilog:
        yield parser.epilog


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _problems() -> Iterator[tuple[int, str]]:
    """Yield exit code and word of every `Problem` that `stemctl` makes, read from its source."""
    numbers = _numbers()
    for path in Path(exits.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _last(node.func) == "Problem" and len(node.args) >= 2:
                number, word = numbers.get(_last(node.args[0])), node.args[1]
                if number is not None and isinstance(word, ast.Constant):
                    yield number, str(word.value)
                elif number is not None and isinstance(word, ast.IfExp):
                    either = (word.body, word.orelse)
                    yield from ((number, str(each.value)) for each in either if isinstance(each, ast.Constant))
            elif isinstance(node, ast.Call) and _last(node.func) == "not_found":
                words = [
                    each for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
                yield from ((exits.NOTHING, "unknown-" + str(each.value)) for each in words)
    yield from ((number, word) for _, number, word, _ in exits._KNOWN)
    yield from ((exits.REFUSED, word) for word in DISTRUST)
    # What is put together while it runs: a check that can fail without the server being away, and the end of a task.
    yield from ((exits.FAILED, f"unhealthy-{check}") for check in exits.CHECKS if check != "reachable")
    yield from ((exits.FAILED, state) for state in exits.ENDS)


def _numbers() -> dict[str, int]:
    """Return the exit codes by the name that `stemctl.exits` has for each."""
    return {name: value for name, value in vars(exits).items() if name.isupper() and type(value) is int}


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
