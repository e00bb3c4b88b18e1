"""A ZEO server beside its files: whether it answers at the address in its zeo.conf."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Final

from ...errors import InUse
from ...model.source import Database

ADDRESS: Final = "zeo.address"
TIMEOUT: Final = 5.0  # seconds
# The errors of the system for an address at which nothing listens: there is no such port, socket or host.
NOTHING_LISTENS: Final = (
    errno.ECONNREFUSED,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
)


def is_served(database: Database) -> bool:
    """Tell whether a database belongs to a ZEO server, so that clients may have caches of it."""
    return ADDRESS in database.options


def require_stopped(databases: Iterable[Database]) -> None:
    """Raise InUse when the server of a database answers, or when it is not known whether it does.

    The lock of the storage is not enough: the server may run on another host, or in a container with locks of
    its own.
    """
    for address in dict.fromkeys(database.option(ADDRESS) for database in databases if is_served(database)):
        try:
            running = accepts_connections(address)
        except OSError as error:
            raise InUse(
                f"it is not known whether a ZEO server runs at {address}: {error.strerror or error}",
                "stop it, and run this as the user that it runs as, on its host",
            ) from None
        if running:
            raise InUse(f"a ZEO server answers at {address}", "stop it and all its clients first")


def accepts_connections(address: str) -> bool:
    """Tell whether a process accepts connections at an address, written as in zeo.conf.

    Raise OSError when that is not known.
    """
    from ZConfig.datatypes import SocketBindingAddress

    parsed = SocketBindingAddress(address)
    try:
        if parsed.family == socket.AF_UNIX:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(TIMEOUT)
                one.connect(parsed.address)
        else:
            host, port = parsed.address[:2]
            socket.create_connection((host or "localhost", port), TIMEOUT).close()
    except BlockingIOError:  # it listens, but its queue of connections is full
        return True
    except socket.gaierror:
        return False
    except OSError as error:
        # no number: Python itself refuses the address, such as a path too long for a socket
        refused = error.errno is None and not isinstance(error, TimeoutError)
        if refused or error.errno in NOTHING_LISTENS:
            return False
        raise
    return True
