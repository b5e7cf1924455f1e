"""A producer that signs what it sends, with everything else taken from the environment.

Run it: STEM_BROKER_URL=redis://localhost:6379 \
        STEM_SIGNING_KEYS=main:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MDE= STEM_SIGNING_ACTIVE_KEY=main \
        python examples/producer_signed.py

Workers with the same keys verify the exact bytes before any handler is called. Without keys nothing is signed.
"""

import asyncio

from stem import (
    InMemoryResultBackend,
    PayloadSigner,
    RedisStreamsBroker,
    SimpleTaskRegistry,
    Stem,
    StemConfig,
)


async def main() -> None:
    config = StemConfig.from_environment()
    signer = PayloadSigner.maybe(config.signing)
    broker = await RedisStreamsBroker.connect(config.broker_url or "redis://localhost:6379", tls=config.tls)

    async with Stem(
        broker=broker, registry=SimpleTaskRegistry(), backend=InMemoryResultBackend(), signer=signer
    ) as stem:
        task_id = await stem.enqueue("billing.charge", args={"customer_id": "cust_123", "amount": 42_00})

        print(f"Enqueued {task_id} ({'signed' if signer else 'unsigned'})")

    await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
