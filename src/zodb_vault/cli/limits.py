"""How much of the machine and of the line a command takes: options, configuration, and what the system is told."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    F = TypeVar("F", bound=Callable[..., Any])
    RateType = click.ParamType[int]
else:
    F = TypeVar("F")
    RateType = click.ParamType  # no generic class before click 8.4

NICENESS: Final = 19
IDLE: Final = "3"
PATIENCE_SECONDS: Final = 10


class RateOption(RateType):
    """Bytes a second, such as ``10M``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
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


def give_way() -> None:
    """Let everybody else go first: at the processors, and at the disk where the system has classes for that (and a scheduler that heeds them)."""
    import shutil
    import subprocess

    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # set of the main thread before there are others, which inherit it, as programs do that are started
    if ionice := shutil.which("ionice"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = [ionice, "-c", IDLE, "-p", str(os.getpid())]
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE_SECONDS
            )
