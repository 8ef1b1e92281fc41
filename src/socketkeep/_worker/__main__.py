"""``python -m socketkeep._worker FD``: a template process on its channel.  For the keeper only."""

from __future__ import annotations

import sys

from socketkeep._worker._template import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
