"""The worker: takes tasks from queues and runs their handlers."""

from stem.worker.lifecycle import WorkerLifecycleConfig
from stem.worker.runtime import Worker

__all__ = ["Worker", "WorkerLifecycleConfig"]
