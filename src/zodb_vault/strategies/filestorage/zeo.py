"""Find out whether a ZEO server answers at the address in its zeo.conf."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Final

from ...errors import InUse
from ...model.source import Database

ADDRESS: Final = "zeo.address"
TIMEOUT: Final = 5.0  # seconds
# System errors for an address at which no process listens: there is no such port, socket or host.
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
    """Raise InUse when the ZEO server of a database answers, or when that cannot be found out.

    The lock of the storage is not enough: the server may run on another host, or in a container that has its
    own locks.
    """
    for address in dict.fromkeys(database.option(ADDRESS) for database in databases if is_served(database)):
        try:
            running = accepts_connections(address)
        except OSError as error:
            raise InUse(
                f"it is not known whether a ZEO server runs at {address}: {error.strerror or error}",
                "stop it, then run this command on its host and as its user",
            ) from None
        if running:
            raise InUse(f"a ZEO server answers at {address}", "stop it and all its clients first")


def accepts_connections(address: str) -> bool:
    """Tell whether a process accepts connections at an address, which is written as in zeo.conf.

    Raise OSError when that cannot be found out.
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
    except BlockingIOError:  # the server listens, but its queue of connections is full
        return True
    except socket.gaierror:
        return False
    except OSError as error:
        # An error without a number comes from Python, which refuses the address: a socket path is too long.
        refused = error.errno is None and not isinstance(error, TimeoutError)
        if refused or error.errno in NOTHING_LISTENS:
            return False
        raise
    return True
