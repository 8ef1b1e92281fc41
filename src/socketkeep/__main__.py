"""`python -m socketkeep` is `socketkeep`."""

import sys

from socketkeep._cli import main

sys.exit(main())
