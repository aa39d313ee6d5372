"""What holds for all tests."""

from hypothesis import settings

# A machine that has other things to do is slow, not wrong.
settings.register_profile("appliance", deadline=None)
settings.load_profile("appliance")
