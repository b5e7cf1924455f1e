"""An application that was not made from the environment, for tests of the command line."""

from __future__ import annotations

from stem.adapters.memory import InMemoryBroker
from stem.client import Stem
from stem.config import StemConfig

app = Stem(
    InMemoryBroker(), config=StemConfig(worker_queues=("own",), drain_timeout_s=9.0, result_ttl_s=77.0, health_port=1)
)
