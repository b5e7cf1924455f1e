"""How a task of one name is run here: the options of producer, handler and configuration, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stem.record import record
from stem.registry import Registered, TaskRegistry
from stem.retry import RetryStrategy
from stem.task import TaskOptions, given, seconds

_OTHERS_BUSINESS: Final = frozenset({"queue", "priority", "lease_ms", "unique_key", "redact"})
"""Travelling options that the broker has dealt with by the time a worker sees them, or that a job looks at itself."""


@record
class Defaults:
    """What the worker decides where neither producer nor handler did."""

    retry: RetryStrategy
    max_retries: int = 3
    lease_ms: int = 30_000
    result_ttl_ms: int = 86_400_000


@record
class Plan:
    """Everything dispatch needs to know about one run.

    Attributes:
        retry_on: None means any exception.
        isolated: it runs in a child process.
        redact: arguments that the handler wants hidden.
    """

    registered: Registered
    max_retries: int
    soft_s: float | None
    hard_s: float | None
    ttl_ms: int
    retry: RetryStrategy
    retry_on: tuple[type[BaseException], ...] | None
    give_up_on: tuple[type[BaseException], ...]
    isolated: bool = False
    redact: tuple[str, ...] = ()

    @property
    def threaded(self) -> bool:
        return self.registered.kind == "thread" and not self.isolated


class Planner:
    """Resolves options; remembers the plan of each name. Belongs to the work loop."""

    def __init__(self, registry: TaskRegistry, defaults: Defaults) -> None:
        self._registry = registry
        self._defaults = defaults
        self._plans: dict[str, Plan] = {}

    def plan(self, task: str, travelled: Mapping[str, Any]) -> Plan:
        """Return the plan of one run.

        Raises:
            UnknownTaskError: the name is not registered here.
            DecodeError: the producer's options cannot be read.
        """
        known = self._plans.get(task)
        if known is None or known.registered is not self._registry.get(task):
            registered = self._registry.get(task)
            known = self._plans[task] = self._resolve(registered, registered.options)
        if not travelled or travelled.keys() <= _OTHERS_BUSINESS:
            return known
        registered = known.registered
        chosen = {key: value for key, value in travelled.items() if key != "redact"}
        return self._resolve(registered, TaskOptions.from_travelled(chosen).over(registered.options))

    def leases(self) -> dict[str, int]:
        """Return the lease of each registered task that sets one, in milliseconds."""
        found = {}
        for name in self._registry.names():
            lease_s = seconds(self._registry.get(name).options.visibility_timeout, None)
            if lease_s is not None:
                found[name] = max(1, round(lease_s * 1000))
        return found

    def _resolve(self, registered: Registered, options: TaskOptions) -> Plan:
        ttl_s = seconds(options.result_ttl, None)
        return Plan(
            registered=registered,
            max_retries=given(options.max_retries, self._defaults.max_retries),
            soft_s=seconds(options.soft_time_limit, None),
            hard_s=seconds(options.time_limit, None),
            ttl_ms=self._defaults.result_ttl_ms if ttl_s is None else max(1, round(ttl_s * 1000)),
            retry=given(options.retry_strategy, self._defaults.retry),
            retry_on=given(options.retry_on, None),
            give_up_on=given(options.give_up_on, ()),
            isolated=options.isolation == "process",
            redact=tuple(given(options.redact, ())),
        )


def redactions(registry: TaskRegistry) -> dict[str, tuple[str, ...]]:
    """Return what each registered task wants hidden; those that hide nothing are left out."""
    wanted = ((name, given(registry.get(name).options.redact, ())) for name in registry.names())
    return {name: tuple(paths) for name, paths in wanted if paths}
