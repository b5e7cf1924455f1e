"""The worlds of the fault tests, for a worker process under fire."""

from tests.faults.conftest import worlds

__all__ = ["worlds"]
