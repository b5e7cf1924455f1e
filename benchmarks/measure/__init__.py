"""The measurements, one module per subject. Each takes a `Bench` and adds rows to its result."""
