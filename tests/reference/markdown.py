"""Markdown that the makers of reference pages write."""

from __future__ import annotations


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(text: object) -> str:
    """Return text set as code."""
    return f"`{text}`"
