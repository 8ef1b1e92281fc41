"""What every test runs under."""

import signal

from hypothesis import settings

pytest_plugins = ["tests._leaks", "tests._tiers"]

# A loaded machine makes an example slow without making it wrong; the test's own timeout bounds it.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# A shell without job control has what it starts in the background ignore these, and every process
# that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
