"""Write what the program says of itself into the reference pages: `make docs`."""

from __future__ import annotations

import sys

from tests.reference.pages import ROOT, filled, pages


def main() -> int:
    """Rewrite the pages that have changed and name them."""
    for page in pages():
        path = ROOT / page
        before = path.read_text("utf-8")
        after = filled(page, before)
        if after != before:
            path.write_text(after, "utf-8")
            print(f"{page}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
