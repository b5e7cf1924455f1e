"""One no-op task for each queue. Each module runs in the benchmark's own virtual environment, not in Stem's."""
