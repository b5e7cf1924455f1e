"""How a task is to be run: options that travel and merge, each "unset" at first. Pure data and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, TypedDict, TypeVar

from stem.errors import MAX_DURATION_S, DecodeError, InvalidInputError, InvalidNameError
from stem.messages.names import check_name
from stem.redaction import check_paths
from stem.retry import ExponentialJitterRetryStrategy, FixedRetryStrategy, RetryStrategy

T = TypeVar("T")
D = TypeVar("D")

Duration = timedelta | float
"""A length of time: a timedelta, or seconds as a number."""


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Nobody said anything about this option, so the next one to be asked decides."""


def given(value: T | Unset, default: D) -> T | D:
    """Return `value`, or `default` where it is unset."""
    return default if isinstance(value, Unset) else value


def seconds(value: Duration | Unset, default: D) -> float | D:
    """Return a duration option in seconds, or `default` where it is unset."""
    if isinstance(value, Unset):
        return default
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def to_seconds(name: str, value: object, *, least: float = 0.001) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidInputError: not a timedelta or number, not finite, under `least` or over ten years; names `name`.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= MAX_DURATION_S:
        form = "at least 0" if least <= 0 else f"at least {least * 1000:g} ms"
        raise InvalidInputError(f"{name}={shown(value)}: give seconds or a timedelta, {form} and at most ten years")
    return float(number)


_DURATIONS: Final = ("visibility_timeout", "soft_time_limit", "time_limit", "result_ttl")
_TRAVEL_MS: Final = {
    "visibility_timeout": "lease_ms",
    "soft_time_limit": "soft_ms",
    "time_limit": "hard_ms",
    "result_ttl": "result_ttl_ms",
}
_MAX_RETRIES: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How a task is run. Every field left out is *unset*: what the producer leaves unset the handler's options decide,
    and what those leave unset the configuration.

    Durations are a timedelta or seconds; once made, the fields hold seconds, to the millisecond.

    Attributes:
        queue: where it waits.
        priority: 0 to 9, 9 first.
        max_retries: how often it may fail and run again; 0 means one try.
        visibility_timeout: the length of its lease; renewed while it runs.
        soft_time_limit: after it the handler is told, with `SoftTimeLimitExceeded`.
        time_limit: after it the handler is ended.
        result_ttl: how long its record and result are kept once it is final.
        isolation: "process" runs it in a child process of the worker, which can be killed.
        retry_strategy: how long to wait before each retry.
        retry_on: only these exceptions are retried; `give_up_on`: these never are, and win.
        redact: arguments, or parts of them (`card.number`), that nobody is shown; those of producer and handler add up.
    """

    queue: str | Unset = UNSET
    priority: int | Unset = UNSET
    max_retries: int | Unset = UNSET
    visibility_timeout: Duration | Unset = UNSET
    soft_time_limit: Duration | Unset = UNSET
    time_limit: Duration | Unset = UNSET
    result_ttl: Duration | Unset = UNSET
    isolation: Literal["process"] | Unset = UNSET
    retry_strategy: RetryStrategy | Unset = UNSET
    retry_on: tuple[type[BaseException], ...] | Unset = UNSET
    give_up_on: tuple[type[BaseException], ...] | Unset = UNSET
    redact: Sequence[str] | Unset = UNSET

    def __post_init__(self) -> None:
        if self.queue is not UNSET:
            check_name("queue", self.queue)
        _check_whole("priority", self.priority, 0, 9)
        _check_whole("max_retries", self.max_retries, 0, _MAX_RETRIES)
        for name in _DURATIONS:
            value = getattr(self, name)
            if value is not UNSET:
                # In whole milliseconds, as they travel: two that are told apart here must be so there.
                object.__setattr__(self, name, round(to_seconds(name, value) * 1000) / 1000)
        if self.isolation is not UNSET and self.isolation != "process":
            raise InvalidInputError(f'isolation={shown(self.isolation)}: give "process", or leave it out')
        if self.retry_strategy is not UNSET and not isinstance(self.retry_strategy, RetryStrategy):
            raise InvalidInputError(
                f"retry_strategy={shown(self.retry_strategy)}: give an object with delay_s(attempt), "
                "such as ExponentialJitterRetryStrategy(base=0.2, max=60)"
            )
        for name in ("retry_on", "give_up_on"):
            value = getattr(self, name)
            if value is not UNSET:
                object.__setattr__(self, name, _exceptions(name, value))
        if self.redact is not UNSET:
            object.__setattr__(self, "redact", check_paths(self.redact))
        soft, hard = seconds(self.soft_time_limit, None), seconds(self.time_limit, None)
        if soft is not None and hard is not None and soft >= hard:
            raise InvalidInputError(f"soft_time_limit={soft:g} is not shorter than time_limit={hard:g}")

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name in _FIELDS if (value := getattr(self, name)) is not UNSET)
        return f"TaskOptions({said})"

    def over(self, base: TaskOptions) -> TaskOptions:
        """Return `base` with the fields that are set here on top."""
        if self is NO_OPTIONS:
            return base
        if base is NO_OPTIONS:
            return self
        changed = {name: value for name in _FIELDS if (value := getattr(self, name)) is not UNSET}
        if not changed:
            return base
        # The soft limit of one side and the hard limit of the other may cross: the side that wins is heard, and the
        # other one's limit is left out rather than refused, because neither of the two authors made a mistake.
        merged = {name: changed.get(name, getattr(base, name)) for name in _FIELDS}
        if self.redact is not UNSET and base.redact is not UNSET:
            merged["redact"] = (*base.redact, *self.redact)  # one of them had a reason to hide it
        soft, hard = merged["soft_time_limit"], merged["time_limit"]
        if soft is not UNSET and hard is not UNSET and soft >= hard:
            merged["time_limit" if "soft_time_limit" in changed else "soft_time_limit"] = UNSET
        return TaskOptions(**merged)

    def travelling(self) -> dict[str, Any]:
        """Return what is set as the keys of `Envelope.options`; durations in milliseconds.

        Raises:
            InvalidInputError: a field is set that cannot travel (exception classes, a retry strategy of one's own).
        """
        if self is NO_OPTIONS:
            return {}
        plain: dict[str, Any] = {}
        for name in ("queue", "priority", "max_retries", "isolation"):
            if (value := getattr(self, name)) is not UNSET:
                plain[name] = value
        for name, key in _TRAVEL_MS.items():
            if (value := getattr(self, name)) is not UNSET:
                plain[key] = round(value * 1000)
        if self.redact is not UNSET:
            plain["redact"] = list(self.redact)
        for name in ("retry_on", "give_up_on"):
            if getattr(self, name) is not UNSET:
                raise InvalidInputError(f"{name} cannot travel with a task: set it in the handler's options")
        if isinstance(self.retry_strategy, ExponentialJitterRetryStrategy):
            plain["retry_base_ms"] = max(1, round(self.retry_strategy.base_s * 1000))
            plain["retry_max_ms"] = max(1, round(self.retry_strategy.max_s * 1000))
        elif isinstance(self.retry_strategy, FixedRetryStrategy):
            plain["retry_fixed_ms"] = max(1, round(self.retry_strategy.seconds * 1000))
        elif self.retry_strategy is not UNSET:
            raise InvalidInputError(
                f"retry_strategy={shown(self.retry_strategy)} cannot travel with a task: use "
                "ExponentialJitterRetryStrategy or FixedRetryStrategy, or set it in the handler's options"
            )
        return plain

    @classmethod
    def from_travelled(cls, options: Mapping[str, Any]) -> TaskOptions:
        """Read `Envelope.options`; keys that this version does not know are ignored.

        Raises:
            DecodeError: a wrong type or a value out of range.
        """
        if not options:
            return NO_OPTIONS
        values: dict[str, Any] = {
            name: options[name]
            for name in ("queue", "priority", "max_retries", "isolation", "redact")
            if name in options
        }
        try:
            for name, key in _TRAVEL_MS.items():
                if key in options:
                    values[name] = _milliseconds(options, key)
            if "retry_fixed_ms" in options:
                values["retry_strategy"] = FixedRetryStrategy(_milliseconds(options, "retry_fixed_ms"))
            elif "retry_base_ms" in options:
                base = _milliseconds(options, "retry_base_ms")
                longest = _milliseconds(options, "retry_max_ms") if "retry_max_ms" in options else max(base, 300.0)
                values["retry_strategy"] = ExponentialJitterRetryStrategy(base, longest)
            return cls(**values)
        except (InvalidInputError, InvalidNameError) as error:
            raise DecodeError(f"envelope: options: {error}") from error


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if value is UNSET:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInputError(f"{name}={shown(value)}: give a whole number from {least} to {most}")


def _exceptions(name: str, value: object) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple | list) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidInputError(f"{name}={shown(value)}: give exception classes, such as (ConnectionError,)")
    return tuple(kinds)


def _milliseconds(options: Mapping[str, Any], key: str) -> float:
    value = options[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInputError(f"{key!r} is not a whole number of milliseconds")
    return value / 1000


def shown(value: object) -> str:
    """Return `value` as short ASCII, for an error message."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


class OptionsDict(TypedDict, total=False):
    """The fields of `TaskOptions` as keyword arguments of `@app.task`."""

    queue: str
    priority: int
    max_retries: int
    visibility_timeout: Duration
    soft_time_limit: Duration
    time_limit: Duration
    result_ttl: Duration
    isolation: Literal["process"]
    retry_strategy: RetryStrategy
    retry_on: tuple[type[BaseException], ...]
    give_up_on: tuple[type[BaseException], ...]
    redact: Sequence[str]


_FIELDS: Final = tuple(each.name for each in fields(TaskOptions))
NO_OPTIONS: Final = TaskOptions()
"""Options with nothing set."""
