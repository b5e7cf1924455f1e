"""deploy/Dockerfile as a container engine reads it: its instructions, and the process that its image becomes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.flow.running import BIN, ROOT, Program, run, running

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its `--options`, and what follows them."""

    name: str
    options: dict[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """The words of an instruction in exec form.

        Raises:
            ValueError: it is in shell form, which needs a shell and hides signals from the program.
        """
        words: list[str] = json.loads(self.text)
        return words


def instructions(path: Path = DOCKERFILE) -> Iterator[Instruction]:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        options = dict(re.findall(r"--([\w-]+)=(\S+)", re.split(r"[\[\"]| (?!--)\w+ ", rest)[0]))
        text = re.sub(r"^(--[\w-]+=\S+\s+)+", "", rest.strip())
        yield Instruction(name.upper(), options, text)


class Image:
    """The last stage of the Dockerfile."""

    def __init__(self) -> None:
        found = list(instructions())
        self.stages = [one.text for one in found if one.name == "FROM"]
        last = max(place for place, one in enumerate(found) if one.name == "FROM")
        self._found = found[last:]

    def one(self, name: str) -> Instruction:
        (only,) = (instruction for instruction in self._found if instruction.name == name)
        return only

    @property
    def environment(self) -> dict[str, str]:
        """What ENV sets; `$PATH` is left out of PATH."""
        found = dict(re.findall(r"(\w+)=(\S+)", self.one("ENV").text))
        return found | {"PATH": found["PATH"].removesuffix(":$PATH")}

    @property
    def health_check(self) -> list[str]:
        keyword, _, words = self.one("HEALTHCHECK").text.partition(" ")
        assert keyword == "CMD"
        return list(json.loads(words))

    def command(self, args: Sequence[str] | None = None) -> list[str]:
        """Return the command line of process 1, `args` instead of CMD."""
        return [*self.one("ENTRYPOINT").words, *(self.one("CMD").words if args is None else args)]

    def full_environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a container: the base image's, the image's, and what it is given."""
        base = {"HOME": "/", "HOSTNAME": "c0ffee", "LANG": "C.UTF-8"}
        own = self.environment | {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin"}  # for /opt/stem/bin
        return base | own | dict(given)

    def is_healthy(self, given: Mapping[str, str]) -> bool:
        """Run the health check once, in the time it is given."""
        within = float(self.one("HEALTHCHECK").options["timeout"].removesuffix("s"))
        command = [sys.executable if word == "python" else word for word in self.health_check]
        done = run(command, env=self.full_environment(given), timeout=within * 5)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0

    @contextmanager
    def container(
        self, given: Mapping[str, str], folder: Path, *, args: Sequence[str] | None = None, wrapper: Sequence[str] = ()
    ) -> Iterator[Program]:
        """Run what a container would run, in `folder` for its working directory."""
        with running([*wrapper, *self.command(args)], env=self.full_environment(given), folder=folder) as program:
            yield program


def names_a_host(image: str) -> bool:
    """Say whether the name of an image begins with a registry's host."""
    first, separator, _ = image.partition("/")
    return bool(separator) and ("." in first or ":" in first or first == "localhost")
