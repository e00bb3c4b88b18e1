"""Where the fixtures come from that more than one folder of tests uses."""

import signal

from hypothesis import HealthCheck, settings

# A machine that is shared is slow at times: how long an example takes to be made says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "command_fixtures",
    "services.plone_site",
    "services.mariadb",
    "services.postgres",
    "services.s3",
    "services.zeo",
    "services.zeo_site",
]


def pytest_configure() -> None:
    """Give signals their default effect: shells and nohup ignore some in jobs, and children inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
