"""Rows of a broker's answers, with what a test does not care about filled in. All times hang off `NOW`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stem.contracts import FinalRow, ListState, Measured, MinuteRow, Pause, QueueRow, Seen, ServerInfo, TaskPage
from stem.control.diagnose import diagnose
from stem.messages.event import Event
from stem.messages.heartbeat import Heartbeat, RunningTask
from stem.messages.status import ErrorInfo, TaskState, TaskStatus
from stem.observe.snapshot import Snapshot
from stem.observe.state import ClusterState

NOW = 1_760_000_000_000


def beat(worker_id: str = "host-1-aa", **fields: Any) -> Heartbeat:
    given: dict[str, Any] = {
        "id": worker_id,
        "name": worker_id.split("-")[0],
        "started_at_ms": NOW - 3_600_000,
        "host": "box",
        "pid": 411,
        "version": "0.1.0",
        "queues": ("default",),
        "concurrency": 4,
        **fields,
    }
    return Heartbeat(**given)


def seen(worker_id: str = "host-1-aa", *, age_ms: int = 400, now_ms: int = NOW, **fields: Any) -> Seen:
    return Seen(heartbeat=beat(worker_id, **fields), at_ms=now_ms - age_ms, age_ms=age_ms)


def running(task_id: str, *, started_ago_ms: int = 5_000, token: int = 1, **fields: Any) -> RunningTask:
    given: dict[str, Any] = {
        "task": "mail.send",
        "queue": "default",
        "attempt": 0,
        "started_at_ms": NOW - started_ago_ms,
        **fields,
    }
    return RunningTask(id=task_id, token=token, **given)


def queue(name: str = "default", **fields: Any) -> QueueRow:
    return QueueRow(name=name, **{"consumers": 1, **fields})


def status(task_id: str, state: TaskState = TaskState.RUNNING, **fields: Any) -> TaskStatus:
    given: dict[str, Any] = {
        "task": "mail.send",
        "queue": "default",
        "enqueued_at_ms": NOW - 60_000,
        **fields,
    }
    return TaskStatus(id=task_id, state=state, **given)


def event(kind: str, task_id: str = "t1", *, at_ms: int = NOW, **fields: Any) -> Event:
    given: dict[str, Any] = {
        "worker": "host-1-aa",
        "seq": 1,
        "task": "mail.send",
        "queue": "default",
        **fields,
    }
    return Event(kind=kind, at_ms=at_ms, task_id=task_id, **given)


def final(task_id: str, state: TaskState = TaskState.SUCCEEDED, *, ago_ms: int = 1_000, **fields: Any) -> FinalRow:
    given: dict[str, Any] = {
        "task": "mail.send",
        "queue": "default",
        "worker": "host-1-aa",
        "attempt": 0,
        "enqueued_at_ms": NOW - ago_ms - 500,
        "started_at_ms": NOW - ago_ms - 100,
        "finished_at_ms": NOW - ago_ms,
        **fields,
    }
    return FinalRow(id=task_id, state=state, **given)


def minute(counts: Mapping[str, int], *, back: int = 0, queue_name: str = "default", **fields: Any) -> MinuteRow:
    at_ms = NOW // 60_000 * 60_000 - back * 60_000
    return MinuteRow(at_ms=at_ms, queue=queue_name, task="mail.send", counts=counts, **fields)


def measured(buckets: Mapping[int, int]) -> Measured:
    return Measured(
        queue="default", task="mail.send", count=sum(buckets.values()), wait_ms=100, run_ms=1_000, buckets=buckets
    )


def page(*items: TaskStatus, more: bool = False) -> TaskPage:
    return TaskPage(items=items, next="more" if more else None, total=None)


def info(**fields: Any) -> ServerInfo:
    given: dict[str, Any] = {"kind": "valkey", "version": "9.1.2", "url": "redis://h/0", "namespace": "stem", **fields}
    return ServerInfo(now_ms=NOW, **given)


def state() -> ClusterState:
    return ClusterState(diagnose)


def snapshot(asked_ms: int = NOW, **fields: Any) -> Snapshot:
    return Snapshot(asked_ms=asked_ms, **fields)


def fleet(at_s: float = 1_000.0) -> ClusterState:
    """Return a fleet with something of everything, as the screens' tests show it."""
    made = state()
    pages: dict[ListState, TaskPage] = {
        "retrying": page(
            status(
                "0193aaaa-retry-1",
                TaskState.RETRYING,
                attempt=2,
                due_at_ms=NOW + 42_000,
                error=ErrorInfo(type="SMTPServerDisconnected", message="Connection unexpectedly closed"),
            )
        ),
        "dead": page(
            status(
                "0193bbbb-dead-1",
                TaskState.FAILED,
                task="etl.load",
                queue="etl",
                attempt=3,
                finished_at_ms=NOW - 40_000,
                error=ErrorInfo(type="KeyError", message="'customer_id'"),
            )
        ),
        "queued": page(status("0193cccc-ready-1", TaskState.QUEUED), status("0193cccc-ready-2", TaskState.QUEUED)),
        "scheduled": page(status("0193dddd-later-1", TaskState.SCHEDULED, due_at_ms=NOW + 3_600_000)),
    }
    workers = [
        seen("api-7-ab12", in_flight=3, queues=("default", "mail"), counters={"succeeded": 120, "failed": 2},
             running=(running("0193eeee-run-1", started_ago_ms=41_000, task="reports.render", progress=0.4),
                      running("0193eeee-run-2"), running("0193eeee-run-3", started_ago_ms=900, attempt=1)),
             rss_bytes=212 * 1024 * 1024, cpu_percent=31.0),
        seen("batch-9-cd34", age_ms=124_000, queues=("etl",), concurrency=10),
        seen("etl-3-ef56", age_ms=900, in_flight=1, loop_age_ms=9_000, queues=("etl",),
             running=(running("0193eeee-run-4", started_ago_ms=9_000, task="etl.load", queue="etl"),)),
    ]  # fmt: skip
    queues = [
        queue("default", ready=12_402, in_flight=3, delayed=18, retrying=4, oldest_ms=4_000, enqueued_total=1_000),
        queue("reports", ready=880, delayed=120, oldest_ms=1_080_000, enqueued_total=100, consumers=0,
              pause=Pause(kind="queue", target="reports", actor="ana@bastion", reason="month", at_ms=NOW - 9_000)),
        queue("etl", in_flight=1, dead=2, enqueued_total=50),
    ]  # fmt: skip
    for second in range(3):
        done = second * 40
        made.apply(
            snapshot(
                queues=[
                    *(queues[:2]),
                    queue("etl", in_flight=1, dead=2, enqueued_total=50 + second * 12),
                ],
                workers=workers,
                pauses=[each.pause for each in queues if each.pause is not None],
                minutes=[
                    minute(
                        {"succeeded": 100 + done, "failed": second * 2, "retried": second},
                        measured=measured({5: 50, 8: 30, 11: 2}),
                    )
                ],
                history=[
                    final("0193ffff-ok-1", ago_ms=2_000),
                    final(
                        "0193bbbb-dead-1",
                        TaskState.FAILED,
                        ago_ms=40_000,
                        task="etl.load",
                        error_type="KeyError",
                        attempt=3,
                    ),
                ],
                pages=pages,
                info=info(),
            ),
            at_s - 2 + second,
        )
    made.apply_events(
        [
            event(
                "task.retried",
                "0193aaaa-retry-1",
                at_ms=NOW - 1_000,
                attempt=2,
                detail={
                    "error": "SMTPServerDisconnected",
                    "message": "Connection unexpectedly closed",
                    "next_at_ms": NOW + 42_000,
                },
                worker="api-7-ab12",
            ),
            event("task.succeeded", "0193ffff-ok-1", at_ms=NOW - 2_000, worker="api-7-ab12"),
        ]
    )
    return made
