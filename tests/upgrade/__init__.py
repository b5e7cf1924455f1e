"""Two versions of Stem on one server, each installed from its own wheel; see `__main__.py`."""
