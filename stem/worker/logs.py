"""One line per event on stderr: for people (`console`) or for machines (`json`).

Stem logs an event's name as the message and its facts as fields (`extra`). Only a process that is the worker's own
installs this; in an application that embeds a worker, logging is the application's.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, Final, NamedTuple, TextIO

from stem.text import clean

FIELD_LIMIT: Final = 500
TRACE_LIMIT: Final = 6_000
FIRST: Final = (
    "worker",
    "task_id",
    "task",
    "queue",
    "attempt",
    "duration_ms",
    "error",
)
"""Fields that come first, in this order."""

EVENT: Final = "stem_event"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", EVENT}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`, the well-known fields first."""
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    ordered = {name: given.pop(name) for name in FIRST if name in given}
    return ordered | given


class Spelled(logging.Filter):
    """Writes the fields into the message, for applications whose formatters know nothing of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, EVENT):
            event = record.getMessage()
            setattr(record, EVENT, event)
            record.msg, record.args = " ".join([event, *_pairs(record)]), ()
        return True


_SPELLED: Final = Spelled()
LOGGERS: Final = ("stem.worker", "stem.worker.control", "stem.worker.health", "stem.worker.supervisor")
"""Every logger of `stem.worker`: a test holds this against the source."""


def spell_out() -> None:
    """Make the worker's log lines whole for every handler, also the application's; safe to call again."""
    for name in LOGGERS:  # a logger's filter does not see what its children log
        logging.getLogger(name).addFilter(_SPELLED)


def _pairs(record: logging.LogRecord) -> list[str]:
    pairs = []
    for name, value in fields_of(record).items():
        text = clean(value, FIELD_LIMIT)
        pairs.append(f"{name}={json.dumps(text, ensure_ascii=False) if ' ' in text or not text else text}")
    return pairs


class _Formatter(logging.Formatter):
    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return clean(getattr(record, EVENT, None) or record.getMessage(), 2_000)
        except Exception as error:  # somebody's wrong %-format: the line is told, the flow goes on
            return clean(f"{record.msg!r} ({type(error).__name__} while formatting)", 2_000)

    def _trace(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[0] is None:
            return ""
        return clean("".join(traceback.format_exception(*record.exc_info)), TRACE_LIMIT)


class ConsoleFormatter(_Formatter):
    """`12:00:01.250 WARNING task.failed  task=a.b task_id=… error=…`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [f"{clock}.{int(record.msecs):03d} {record.levelname:<8}{self._message(record)}"]
        parts += _pairs(record)
        if not record.name.startswith("stem"):
            parts.append(f"logger={clean(record.name, 80)}")
        if trace := self._trace(record):
            parts.append(f"traceback={json.dumps(trace, ensure_ascii=False)}")
        return " ".join(parts)


class JsonFormatter(_Formatter):
    """One JSON object per line: `ts level event worker …`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": self._message(record),
            "worker": self._worker,
        }
        for name, value in fields_of(record).items():
            plain = value is None or isinstance(value, bool | int | float)
            line[name if name not in ("ts", "level", "event") else f"{name}_"] = (
                value if plain else clean(value, FIELD_LIMIT)
            )
        if not record.name.startswith("stem"):
            line["logger"] = clean(record.name, 80)
        if trace := self._trace(record):
            line["traceback"] = trace
        return json.dumps(line, ensure_ascii=False)


class Installed(NamedTuple):
    """What this process's logs look like, so that its child processes can do the same."""

    style: str
    level: str
    worker: str


installed: Installed | None = None


def install(*, style: str | None, level: str, worker: str, stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (stderr). `style` None means console on a terminal, else JSON.

    Handlers of the application's on the root logger that write elsewhere, to a file or a collector, stay there.
    """
    global installed
    target = sys.stderr if stream is None else stream
    chosen = style or ("console" if target.isatty() else "json")
    installed = Installed(chosen, level, worker)
    handler = logging.StreamHandler(target)
    handler.setFormatter(ConsoleFormatter(worker) if chosen == "console" else JsonFormatter(worker))
    root = logging.getLogger()
    told = [each for each in (target, sys.stderr, sys.stdout) if each is not None]  # where each line would stand twice
    root.handlers[:] = [handler, *(other for other in root.handlers if getattr(other, "stream", None) not in told)]
    # The level is Stem's; libraries tell what they do at info, which is not what an operator asked for. An application
    # that wants that of its own, or of all, has given its logger or the root logger a level.
    if level not in ("debug", "info"):
        root.setLevel(level.upper())
    logging.getLogger("stem").setLevel(level.upper())
