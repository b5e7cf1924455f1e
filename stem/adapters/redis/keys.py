"""Every key and channel of a namespace, made here and nowhere else (scripts/ has the same names for Lua).

| key | type | life |
|---|---|---|
| `{ns}:task:<id>` | hash | none until final (and while dead), then the result's time to live |
| `{ns}:q:<queue>:p<0-9>` | stream, group `stem` | none: the queue itself |
| `{ns}:q:<queue>:delayed` `:retry` `:lease` `:dead` `:held` | zsets | none: empty ones do not exist |
| `{ns}:q:<queue>:meta` | hash | none: priorities in use, counters |
| `{ns}:q:<queue>:bell` | list of at most 1 | none: the wake-up for one idle worker |
| `{ns}:wake:<reader>` | list of at most 1 | 10 seconds: ends one worker's wait for bells |
| `{ns}:queues` | set | none: the known queues |
| `{ns}:unique:<length of task>:<task>:<key>` | string | released with the task's final state |
| `{ns}:workers`, `{ns}:worker:<id>` | zset, hash | an hour after the last beat |
| `{ns}:fleet` | hash | none: when anybody beat last |
| `{ns}:redact` | hash | none: by task name, arguments that nobody is shown; capped |
| `{ns}:epoch` `{ns}:fence` `{ns}:desired:<kind>` | strings, hashes | none: what operators asked for |
| `{ns}:control:log` | stream | entries for 24 hours |
| `{ns}:request:<id>` | hash | 10 minutes: makes issuing safe to repeat |
| `{ns}:reply:<request>` | stream | the deadline + 60 s |
| `{ns}:events`, `{ns}:watch` | stream, zset | 2 minutes, 1 hour |
| `{ns}:stats:<minute>` | hash | 3 hours |
| `{ns}:history`, `{ns}:audit` | list, stream | cut to 10 000 now and then |
| `{ns}:audit:outcomes` | zset by the row's time | capped at 11 000: what came of what the audit holds |
| `{ns}:schema` | string | none: the version of the keyspace, written once (schema.py) |
| `{ns}:probe` | string | 1 second: proves that the server takes writes |
| `{ns}:result:<id>` | hash | the copy kept by a result backend, with its time to live |
| channels `{ns}@<db>:control`, `:done:<client>` | pub/sub | it ignores database numbers, so the number is in the name |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace on one database."""

    namespace: str
    db: int

    @property
    def prefix(self) -> str:
        return f"{{{self.namespace}}}:"

    @property
    def channels(self) -> str:
        return f"{{{self.namespace}}}@{self.db}:"

    @property
    def control_channel(self) -> str:
        return f"{self.channels}control"

    def done_channel(self, client: str) -> str:
        return f"{self.channels}done:{client}"

    def task(self, task_id: str) -> str:
        return f"{self.prefix}task:{task_id}"

    @property
    def tasks_pattern(self) -> str:
        return f"{self.prefix}task:*"

    def result(self, task_id: str) -> str:
        return f"{self.prefix}result:{task_id}"

    def stream(self, queue: str, priority: int) -> str:
        return f"{self.prefix}q:{queue}:p{priority}"

    def of_queue(self, queue: str, part: str) -> str:
        return f"{self.prefix}q:{queue}:{part}"

    def bell(self, queue: str) -> str:
        return f"{self.prefix}q:{queue}:bell"

    def wake(self, reader: str) -> str:
        return f"{self.prefix}wake:{reader}"

    @property
    def queues(self) -> str:
        return f"{self.prefix}queues"

    @property
    def workers(self) -> str:
        return f"{self.prefix}workers"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}worker:{worker_id}"

    @property
    def redact(self) -> str:
        return f"{self.prefix}redact"

    @property
    def pauses(self) -> str:
        return f"{self.prefix}desired:pause"

    def reply(self, command_id: str) -> str:
        return f"{self.prefix}reply:{command_id}"

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def history(self) -> str:
        return f"{self.prefix}history"

    @property
    def audit(self) -> str:
        return f"{self.prefix}audit"

    @property
    def audit_outcomes(self) -> str:
        return f"{self.prefix}audit:outcomes"

    def stats(self, minute: int) -> str:
        return f"{self.prefix}stats:{minute}"

    @property
    def schema(self) -> str:
        return f"{self.prefix}schema"

    @property
    def probe(self) -> str:
        return f"{self.prefix}probe"
