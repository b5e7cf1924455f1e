"""The adapters of this repository under the contract that Stem ships."""

import pytest

# Before anything imports it, so that its failing assertions show values.
pytest.register_assert_rewrite("stem.testing")
