"""What every test runs under."""

import gc
import os
import random
import signal

from hypothesis import settings

pytest_plugins = ["tests._leaks", "tests._tiers"]

# A loaded machine makes an example slow without making it wrong; the test's own timeout bounds it.
settings.register_profile("suite", deadline=None)
# `make test-unit` has this one, `make test` the one above.
settings.register_profile("inner-loop", settings.get_profile("suite"), max_examples=20)
settings.load_profile("suite")

# A shell without job control has what it starts in the background ignore these, and every process
# that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

#: Of all that is drawn at random where user code or the environment is hostile.  Set here, so that
#: the processes of pytest-xdist have the same, and printed by every run.
SEED = os.environ.setdefault("FUZZ_SEED", str(random.SystemRandom().getrandbits(32)))


def pytest_report_header() -> str:
    """Say how the run's hostile workers and environments can be had again."""
    return f"hostile workers and environments: FUZZ_SEED={SEED}"


def pytest_collection_finish() -> None:
    """Let no collection of garbage walk all that pytest knows of thousands of tests.

    Some tests collect, since what they look at is what nobody refers to any more.
    """
    gc.freeze()
