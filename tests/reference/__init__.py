"""The reference pages of docs/, made from the program itself; see `__main__.py`."""
