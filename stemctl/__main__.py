"""`python -m stemctl`."""

import sys

from stemctl.main import main

sys.exit(main())
