"""The producer's part for code without an event loop: the same scripts over a blocking connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

import redis

from stem.adapters.redis import schema
from stem.adapters.redis.address import Address
from stem.adapters.redis.calls import CHUNK, enqueue_args, enqueued_of, half_way, issue_args, items_of
from stem.adapters.redis.client import REPLY_TIMEOUT_S, Arg, make_blocking, of_one_key, script, translate
from stem.adapters.redis.connections import BlockingPool, ask_blocking, ask_many_blocking
from stem.adapters.redis.keys import Keys
from stem.adapters.redis.reading import MISREAD, reading
from stem.adapters.redis.record import FIELDS, status_of
from stem.contracts import ChangeItem, Enqueued, Limits, NewTask, RevokeTasks
from stem.errors import BrokerError
from stem.messages.command import Command
from stem.messages.status import TaskStatus

# Without a loop there is nobody to be told: look at growing intervals instead, from quick to gentle.
_FIRST_LOOK_S: Final = 0.005
_LAST_LOOK_S: Final = 0.25


class BlockingRedisBroker:
    """Enqueue, look, wait and cancel. Safe to use from several threads: each call takes a connection from a pool."""

    def __init__(self, address: Address, keys: Keys, limits: Limits) -> None:
        self._address = address
        self._keys = keys
        self._limits = limits
        self._client = make_blocking(
            address, reply_timeout_s=REPLY_TIMEOUT_S, client_name=f"stem-{keys.namespace}-sync"
        )
        pool = self._client.connection_pool
        assert isinstance(pool, BlockingPool)
        self._pool = pool
        self._readable = False
        self._marked = False

    @property
    def namespace(self) -> str:
        return self._keys.namespace

    @property
    def url(self) -> str:
        return str(self._address)

    def _admit(self, *, writes: bool, within_s: float | None = None) -> None:
        """Look at the keyspace's version before the first call, as `RedisClient` does."""
        key = self._keys.schema
        try:
            found = ask_blocking(self._pool, "GET", key, within_s=within_s)
            if found is None and writes:
                with contextlib.suppress(redis.ResponseError):
                    found = ask_blocking(self._pool, *schema.mark(key))
        except (redis.RedisError, OSError, *MISREAD) as error:
            if not schema.is_foreign(error):
                raise translate(error, what="GET", address=self._address) from error
            found = b""
        schema.check(found, namespace=self._keys.namespace, address=self._address)
        self._readable = True
        self._marked = self._marked or writes or found is not None

    def _run(self, name: str, *args: Arg) -> Any:
        if not self._marked:
            self._admit(writes=name not in schema.READERS)
        code = script(name)
        prefix, channels = self._keys.prefix, self._keys.channels
        try:
            try:
                return ask_blocking(self._pool, "EVALSHA", code.sha, 1, prefix, channels, *args)
            except redis.exceptions.NoScriptError:
                return ask_blocking(self._pool, "EVAL", code.text, 1, prefix, channels, *args)
        except (redis.RedisError, OSError, *MISREAD) as error:
            if isinstance(error, redis.exceptions.ReadOnlyError):
                with contextlib.suppress(redis.RedisError, OSError):
                    self._pool.disconnect(inuse_connections=False)
            raise translate(error, what=name, address=self._address) from error

    def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        answers: list[Enqueued] = []
        for first in range(0, len(tasks), CHUNK):
            chunk = tasks[first : first + CHUNK]
            try:
                reply = self._run("enqueue", *enqueue_args(chunk, self._limits))
                with reading("enqueue"):
                    answers += enqueued_of(reply, chunk)
            except BrokerError as error:
                if not answers:
                    raise
                raise half_way("enqueue", error, enqueued=[one.id for one in answers if one.taken]) from error
        return answers

    def statuses(self, ids: Sequence[str], *, timeline: bool = True) -> list[TaskStatus | None]:
        if not ids:
            return []
        if not self._readable:
            self._admit(writes=False)
        try:
            rows = ask_many_blocking(self._pool, [("HMGET", self._keys.task(task_id), *FIELDS) for task_id in ids])
            for at, row in enumerate(rows):
                if isinstance(row, redis.ResponseError):
                    if not of_one_key(row):
                        raise row
                    rows[at] = None
        except (redis.RedisError, OSError, *MISREAD) as error:
            raise translate(error, what="HMGET", address=self._address) from error
        with reading("HMGET"):
            return [status_of(task_id, row, timeline=timeline) for task_id, row in zip(ids, rows, strict=True)]

    def wait(self, task_id: str, timeout_s: float, *, limit_s: float | None = None) -> TaskStatus | None:
        began = time.monotonic()
        pause = _FIRST_LOOK_S
        while True:
            within_s = REPLY_TIMEOUT_S
            if limit_s is not None:
                within_s = min(within_s, max(0.05, began + limit_s - time.monotonic()))
            status = self._look(task_id, within_s)
            left = began + timeout_s - time.monotonic()
            if status is None or status.state.final or left <= 0:
                return status
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LAST_LOOK_S)

    def _look(self, task_id: str, within_s: float) -> TaskStatus | None:
        """Return what the broker knows of one task; `within_s` as for `ask_blocking`."""
        if not self._readable:
            self._admit(writes=False, within_s=within_s)
        try:
            row = ask_blocking(self._pool, "HMGET", self._keys.task(task_id), *FIELDS, within_s=within_s)
        except (redis.RedisError, OSError, *MISREAD) as error:
            if not of_one_key(error):
                raise translate(error, what="HMGET", address=self._address) from error
            row = None
        with reading("HMGET"):
            return status_of(task_id, row, timeline=True)

    def cancel(self, task_id: str, command: Command) -> ChangeItem:
        terminate = command.args.get("terminate") is True
        reply = self._run("issue", *issue_args(command, RevokeTasks(ids=[task_id], terminate=terminate)))
        with reading("issue"):
            return items_of(reply[2])[0]

    def close(self) -> None:
        self._client.close()
