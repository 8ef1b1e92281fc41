"""``python -m socketkeep._cluster FD``: a node of a cluster, on its channel.  For the keeper only.

The name and the argument must stay: the keeper of another version may start it.
"""

from __future__ import annotations

from socketkeep._base._importing import ours_first

ours_first()

import sys  # noqa: E402

from socketkeep._cluster._node import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
