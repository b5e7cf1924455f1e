"""The tests of Stem; they mirror the packages."""

import pytest

# Before anything imports it, so that its failing assertions show values.
pytest.register_assert_rewrite("stem.testing")
