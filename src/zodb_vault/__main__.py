"""The start of the command line: ``zodb-vault`` and ``python -m zodb_vault``."""

import os
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run a command.

    A signal while its code is being imported ends it as interrupted, without a traceback.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        # a second signal must not interrupt the import below
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from .errors import ExitCode

        os._exit(ExitCode.INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
