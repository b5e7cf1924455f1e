"""Do a worker's part by hand through the broker: take tasks and settle them."""

from __future__ import annotations

import asyncio

from stem.adapters.connect import connect_broker
from stem.contracts import FetchRequest, Outcome, Settlement
from stem.messages.codec import pack
from stem.messages.status import ErrorInfo


def settle(
    url: str,
    namespace: str,
    outcome: Outcome | None,
    *,
    queue: str = "default",
    result: object = None,
    error: ErrorInfo | None = None,
    reason: str = "failed",
    delay_ms: int = 0,
    worker: str = "web-1",
) -> list[str]:
    """Take all that is ready in a queue and settle it; None leaves it running. Returns the ids."""

    async def work() -> list[str]:
        broker = connect_broker(url, namespace=namespace)
        try:
            epoch = (await broker.control.read(0)).epoch
            fetch = FetchRequest(queues=[queue], count=100, epoch=epoch)
            taken = (await broker.exchange(worker, [], fetch)).deliveries
            if outcome is not None:
                settlements = [
                    Settlement(
                        id=delivery.id,
                        token=delivery.token,
                        outcome=outcome,
                        result=pack(result),
                        error=b"" if error is None else error.encode(),
                        error_type="" if error is None else error.type,
                        reason=reason if outcome is Outcome.DEAD else "",
                        delay_ms=delay_ms,
                    )
                    for delivery in taken
                ]
                answer = await broker.exchange(worker, settlements, None)
                assert set(answer.settled) <= {"applied"}
            return [delivery.id for delivery in taken]
        finally:
            await broker.close()

    return asyncio.run(work())
