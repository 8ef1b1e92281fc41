"""What every test runs under."""

from hypothesis import settings

pytest_plugins = ["tests._leaks"]

# A loaded machine makes an example slow without making it wrong; the test's own timeout bounds it.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
