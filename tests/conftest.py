"""Where the fixtures come from that more than one folder of tests uses."""

import signal

from hypothesis import HealthCheck, settings

# A machine that is shared is slow at times: how long an example takes to be made says nothing about the code.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "services.plone_site",
    "services.mariadb",
    "services.postgres",
    "services.s3",
    "services.zeo",
    "services.zeo_site",
]


def pytest_configure() -> None:
    """Let signals do what they do in a terminal: shells and nohup have jobs ignore some, and so would every process of a test."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
