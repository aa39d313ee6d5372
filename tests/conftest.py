"""What holds for all tests."""

import structlog
from hypothesis import settings

# A machine that has other things to do is slow, not wrong.
settings.register_profile("appliance", deadline=None)
settings.load_profile("appliance")

# Tracebacks as the process writes them. With the values of all variables in them, structlog's default where rich is
# installed, one holds the loop for seconds on a slow machine, and idle clients are closed meanwhile.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
