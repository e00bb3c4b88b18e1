"""How much of the machine and of the network a command uses: the rate limit, the processors, the priority."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    RateType = click.ParamType[int]
else:
    RateType = click.ParamType  # no generic class before click 8.4

NICENESS: Final = 19
# The scheduling class of ionice(1) that gets disk time only when no other process needs it.
IDLE_CLASS: Final = "3"
IONICE_TIMEOUT_SECONDS: Final = 10


class RateOption(RateType):
    """Bytes a second, such as ``10M``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes a second."""
        from ..config.rates import parse_rate

        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(f"a rate {error}", param, ctx)


RATE: Final = RateOption()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lower_priority() -> None:
    """Run with low CPU priority, and with low I/O priority if ionice(1) and the disk scheduler support it.

    The priority is set for the main thread before other threads exist: threads and child processes inherit
    it.
    """
    import shutil
    import subprocess

    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    if ionice := shutil.which("ionice"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [ionice, "-c", IDLE_CLASS, "-p", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=IONICE_TIMEOUT_SECONDS,
            )
