"""The contract of result backends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stem.contracts import ResultBackend
from stem.messages.status import ErrorInfo, TaskState, TaskStatus
from stem.testing.case import QUEUE, until


class ResultBackendContract:
    """A copy of final statuses on a server of its own. The adapter's tests give the fixture `result_backend`.

    Time is real here: what expires does so after some tens of milliseconds.
    """

    async def test_a_status_comes_back_as_it_was_stored(self, result_backend: ResultBackend) -> None:
        """With result, error, meta and timeline; an unknown one is None."""
        status = final("t-1", token=2, result={"a": [1, b"\x00"]}, meta={"k": 1})

        assert await result_backend.store(status, ttl_ms=60_000) is True
        assert await result_backend.get("t-1") == status
        assert await result_backend.get("t-2") is None

    async def test_the_higher_token_wins(self, result_backend: ResultBackend) -> None:
        """A worker that was fenced off cannot overwrite what its successor stored."""
        await result_backend.store(final("t-1", token=2, result="two"), ttl_ms=60_000)

        older = await result_backend.store(final("t-1", token=1, result="one"), ttl_ms=60_000)
        kept = await result_backend.get("t-1")
        newer = await result_backend.store(final("t-1", token=10, result="ten"), ttl_ms=60_000)
        last = await result_backend.get("t-1")

        assert (older, newer) == (False, True)
        assert kept is not None
        assert last is not None
        assert (kept.result, last.result) == ("two", "ten")

    async def test_of_equal_tokens_the_first_wins(self, result_backend: ResultBackend) -> None:
        """A final state is not overwritten."""
        await result_backend.store(final("t-1", token=1, result="first"), ttl_ms=60_000)
        failed = replace(final("t-1", token=1), state=TaskState.FAILED, error=ErrorInfo(type="E", message="m"))

        assert await result_backend.store(failed, ttl_ms=60_000) is False
        kept = await result_backend.get("t-1")
        assert kept is not None
        assert kept.result == "first"

    async def test_a_result_is_forgotten_after_its_time(self, result_backend: ResultBackend) -> None:
        """And the next one is stored as if there had been none."""
        await result_backend.store(final("t-1", token=5), ttl_ms=30)

        async def gone() -> bool:
            return await result_backend.get("t-1") is None

        assert await until(gone, what="the result was forgotten")
        assert await result_backend.store(final("t-1", token=1), ttl_ms=60_000) is True

    async def test_a_clone_is_another_handle_on_the_same_results(self, result_backend: ResultBackend) -> None:
        """And closing it leaves the first one open."""
        await result_backend.store(final("t-1", token=1, result="first"), ttl_ms=60_000)
        clone = result_backend.clone()

        seen = await clone.get("t-1")
        await clone.store(final("t-2", token=1), ttl_ms=60_000)
        await clone.close()

        assert seen == await result_backend.get("t-1")
        assert seen is not None
        assert await result_backend.get("t-2") is not None

    async def test_closing_twice_is_safe(self, result_backend: ResultBackend) -> None:
        """As for a broker."""
        await result_backend.store(final("t-1", token=1), ttl_ms=60_000)

        await result_backend.close()
        await result_backend.close()


def final(task_id: str, *, token: int, **set_: Any) -> TaskStatus:
    """Return a status that has ended well."""
    return TaskStatus(
        id=task_id, task="job", queue=QUEUE, state=TaskState.SUCCEEDED, token=token, finished_at_ms=1_000, **set_
    )
