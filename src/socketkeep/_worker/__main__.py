"""``python -m socketkeep._worker FD``: a template process on its channel.  For the keeper only."""

from __future__ import annotations

from socketkeep._base._importing import ours_first

ours_first()

from socketkeep._worker._fork_hooks import import_with_withholdable_hooks  # noqa: E402

import_with_withholdable_hooks()

import gc  # noqa: E402
import sys  # noqa: E402

gc.disable()  # until `main`: to look for garbage among what is being imported takes a tenth of it

from socketkeep._worker._template import main  # noqa: E402

if __name__ == "__main__":
    main(int(sys.argv[1]))
