"""A broker and a result backend in this process, for tests, small programs and simulation; nothing is kept on disk."""

from stem.adapters.memory.backend import InMemoryResultBackend
from stem.adapters.memory.broker import InMemoryBlockingBroker, InMemoryBroker

__all__ = ["InMemoryBlockingBroker", "InMemoryBroker", "InMemoryResultBackend"]
