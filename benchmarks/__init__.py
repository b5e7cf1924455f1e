"""Measured side by side: Stem, other queues, and raw pipelined Redis, in one run on one machine."""
