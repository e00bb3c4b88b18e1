"""Where the fixtures come from that more than one folder of tests uses."""

import signal

pytest_plugins = ["services.plone_site", "services.mariadb", "services.postgres", "services.s3", "services.zeo", "services.zeo_site"]


def pytest_configure() -> None:
    """Let SIGINT do what it does in a terminal: a shell has jobs in the background ignore it, and so would every process of a test."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
