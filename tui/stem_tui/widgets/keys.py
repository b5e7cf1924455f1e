"""Bindings for Textual, made of the table of actions: no key is written down anywhere else."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from stem_tui.actions import ACTIONS, Scope, deed_keys


def bindings(*scopes: Scope) -> list[BindingType]:
    """Return the keys of these scopes, for the class that has the methods they call."""
    return [
        # Quitting works whatever has the focus, also where something is typed.
        Binding(",".join(action.keys), action.call, action.label, show=False, priority=action.id == "app.quit")
        for action in ACTIONS
        if action.scope in scopes and action.keys
    ]


def row_bindings() -> list[BindingType]:
    """Return the keys that act on a row; which of them mean something depends on the row."""
    return [Binding(key, f"app.deed('{key}')", show=False) for key in deed_keys()]
