"""The `STEM_*` variables, from the reader that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from stem import config
from tests.reference.markdown import code, table

ALL: Final = "all"
PROGRAM: Final = "application"
"""Whoever builds a `Stem` with the settings: producers, and workers, which import the application."""
PRODUCER: Final = "application, stemctl"
"""`stemctl enqueue` and `stemctl result` do what a producer does; `stemctl doctor` judges by limits."""
WORKER: Final = "worker"
OPERATOR: Final = "stemctl, stem-tui"

MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "STEM_BROKER_URL": ("the broker; a database number is its path (`redis://host:6379/1`, `unix:///path?db=1`)", ALL),
    "STEM_RESULT_BACKEND_URL": ("where a copy of results goes; unset, the broker keeps them", PRODUCER),
    "STEM_NAMESPACE": ("prefix of every key and channel: one per installation on a shared server", ALL),
    "STEM_DEFAULT_QUEUE": ("queue of tasks that name none", PRODUCER),
    "STEM_WORKER_QUEUES": ("queues a worker takes from; unset, the default queue; `--queue` overrides", WORKER),
    "STEM_WORKER_NAME": (
        "a worker's stable name; unset, its host's: give each worker of a host its own; `--name` overrides",
        WORKER,
    ),
    "STEM_WORKER_CONCURRENCY": ("handlers at a time; unset, chosen by cores; `--concurrency` overrides", WORKER),
    "STEM_WORKER_PROCESSES": ("worker processes; `--processes` overrides", WORKER),
    "STEM_HEALTH_PORT": ("port that answers `/livez`, `/readyz`, `/metrics`; `--health-port` overrides", WORKER),
    "STEM_HEALTH_HOST": ("address of that port; unset, all of this machine", WORKER),
    "STEM_PREFETCH": ("tasks held beyond free slots; only 0 is supported", WORKER),
    "STEM_DEFAULT_MAX_RETRIES": ("retries of tasks that name none", WORKER),
    "STEM_VISIBILITY_TIMEOUT": ("length of a lease: how long after a worker's death its tasks wait", WORKER),
    "STEM_RESULT_TTL": ("how long an ended task is remembered", WORKER),
    "STEM_HEARTBEAT_INTERVAL": ("between heartbeats; a worker is lost after three; the same on all workers", WORKER),
    "STEM_CONTROL_TIMEOUT": ("how long workers are waited for; `--timeout` overrides", OPERATOR),
    "STEM_DRAIN_TIMEOUT": ("how long a warm stop lets handlers finish; `--drain-timeout` overrides", WORKER),
    "STEM_WEDGED_TIMEOUT": (
        "how long the work loop may stand still until the worker gives up; `--wedged-timeout` overrides",
        WORKER,
    ),
    "STEM_MAX_QUEUE_LENGTH": ("tasks waiting in one queue; more are refused with `QueueFull`", PRODUCER),
    "STEM_DEAD_MAX": ("dead letters kept per queue, the newest", "worker, stemctl"),
    "STEM_DEAD_TTL": ("how long dead letters are kept", WORKER),
    "STEM_MAX_BODY": ("size of one encoded task", PRODUCER),
    "STEM_SIGNING_ALGORITHM": ("how tasks are signed", PRODUCER),
    "STEM_SIGNING_KEYS": ("secrets that sign and check tasks, `id:base64` each", PRODUCER),
    "STEM_SIGNING_ACTIVE_KEY": ("id of the key that signs tasks", PRODUCER),
    "STEM_SIGNING_PUBLIC_KEYS": ("Ed25519 keys that check tasks, `id:base64` each", WORKER),
    "STEM_SIGNING_PRIVATE_KEYS": ("Ed25519 keys that sign tasks, `id:base64` each", PRODUCER),
    "STEM_CONTROL_KEYS": ("secrets that sign and check commands, `id:role:base64` each", "worker, " + OPERATOR),
    "STEM_CONTROL_PUBLIC_KEYS": ("Ed25519 keys that check commands, `id:role:base64` each", WORKER),
    "STEM_CONTROL_PRIVATE_KEYS": ("Ed25519 keys that sign commands, `id:base64` each", OPERATOR),
    "STEM_CONTROL_ACTIVE_KEY": ("id of the key that signs commands", OPERATOR),
    "STEM_TLS_CA_CERT": ("file (PEM) of the authority that the server's certificate must come from", ALL),
    "STEM_TLS_CLIENT_CERT": ("file (PEM) of the client certificate, if the server asks for one", ALL),
    "STEM_TLS_CLIENT_KEY": ("file (PEM) of that certificate's key", ALL),
    "STEM_TLS_ALLOW_INSECURE": ("take any certificate: whoever is in between can read and change everything", ALL),
    "STEM_SIGNALS_ENABLED": ("false switches all signals off", PROGRAM),
    "STEM_SIGNALS_DISABLED": ("signals that are switched off", PROGRAM),
    "STEM_LOG_LEVEL": ("what is logged; `--log-level` overrides", WORKER),
    "STEM_LOG_FORMAT": ("unset, `console` at a terminal and `json` elsewhere; `--log-format` overrides", WORKER),
    "STEM_TUI_PRODUCTION": ("as with `--production`: read-only, and more is asked", "stem-tui"),
    "STEM_TUI_THEME": ("colours of the dashboard; `--theme` overrides", "stem-tui"),
}
"""What each variable means, and who reads it. Name, form and default are the reader's own."""

ELSEWHERE: Final = {
    "STEM_TUI_PRODUCTION": ("`1` or `0`", "0"),
    "STEM_TUI_THEME": ("a theme of `stem-tui --help`", "stem-dark"),
}
"""Variables that are read outside of `stem.config`: form and default."""

SAID: Final = {
    "STEM_BROKER_URL": "at a terminal `embedded://`, else an error",
    "STEM_LOG_LEVEL": "`info`",
    "STEM_SIGNING_ALGORITHM": "`hmac-sha256`",
}
"""Defaults that are chosen after the variable has been read."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable as it is read: by which method, with what else, and what an empty environment gives."""

    name: str
    method: str
    args: tuple[Any, ...]
    bounds: Mapping[str, Any]
    default: Any


def settings() -> list[Setting]:
    """Return the variables in the order in which `StemConfig.from_environment` reads them."""
    found: dict[str, Setting] = {}

    class Recorder(config._Reader):
        def __getattribute__(self, method: str) -> Any:
            attribute = super().__getattribute__(method)
            if not callable(attribute):
                return attribute

            def recorded(*args: Any, **bounds: Any) -> Any:
                named = bool(args) and isinstance(args[0], str) and args[0].startswith("STEM_")
                if named and args[0] not in found:  # getters call each other: the outermost knows the form
                    found[args[0]] = Setting(args[0], method, args[1:], bounds, None)
                    value = attribute(*args, **bounds)
                    found[args[0]] = Setting(args[0], method, args[1:], bounds, value)
                    return value
                return attribute(*args, **bounds)

            return recorded

    with mock.patch.object(config, "_Reader", Recorder):
        config.StemConfig.from_environment({})
    return list(found.values())


def settings_table() -> str:
    """Return one row per variable."""
    rows = []
    for setting in settings():
        meaning, who = MEANINGS.get(setting.name, ("(not described yet)", "?"))
        rows.append([code(setting.name), meaning, _form(setting), _default(setting), who])
    for name, (form, default) in ELSEWHERE.items():
        meaning, who = MEANINGS[name]
        rows.append([code(name), meaning, form, code(default), who])
    return table(["variable", "meaning", "form", "default", "read by"], rows)


def _form(setting: Setting) -> str:
    match setting.method:
        case "duration":
            return f"duration, at least {config.format_duration(setting.bounds['least'])}"
        case "whole":
            return f"whole number, {setting.args[1]} to {setting.args[2]}"
        case "size":
            return f"size, {_size(setting.args[1])} to {_size(setting.args[2])}"
        case "boolean":
            return "boolean"
        case "choice":
            return " ".join(map(code, setting.args[0]))
        case "name" | "names":
            return f"{setting.args[0]} name" + ("s" if setting.method == "names" else "")
        case "url":
            return "URL"
        case "signals":
            return "signal names"
        case "_secret":
            return "list of keys" if setting.name.endswith("_KEYS") else "word"
        case _:
            return "text"


def _default(setting: Setting) -> str:
    if setting.name in SAID:
        return SAID[setting.name]
    value = setting.default
    if value is None or value == ():
        return "unset"
    if setting.method == "duration":
        return code(config.format_duration(value))
    if setting.method == "size":
        return code(_size(value))
    return code(str(value).lower() if isinstance(value, bool) else value)


def _size(number: int) -> str:
    for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
        if number % size == 0:
            return f"{number // size}{unit}"
    return str(number)
