"""A ZEO server beside its files: whether it answers at the address that its zeo.conf says."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Final

from ...errors import InUse
from ...model.source import Database

ADDRESS: Final = "zeo.address"
PATIENCE: Final = 5.0
# What a system says where nobody is: the port or the socket is not there, the host is not known, or its
# address is nobody's.
NOBODY: Final = (
    errno.ECONNREFUSED,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
)


def is_served(database: Database) -> bool:
    """Tell whether a database belongs to a ZEO server: clients name it, and have caches of it."""
    return ADDRESS in database.options


def require_stopped(databases: Iterable[Database]) -> None:
    """Raise InUse when the server of a database answers, or when it cannot be told that none does.

    The lock of the storage says it too, unless the server runs on another host or in a container that does
    not share it.
    """
    for address in dict.fromkeys(database.option(ADDRESS) for database in databases if is_served(database)):
        try:
            found = answers(address)
        except OSError as error:
            raise InUse(
                f"it cannot be told whether a ZEO server runs at {address}: {error.strerror or error}",
                "stop it, and run this as the user that it runs as, on its host",
            ) from None
        if found:
            raise InUse(f"a ZEO server answers at {address}", "stop it and all its clients first")


def answers(address: str) -> bool:
    """Tell whether somebody takes connections at an address, written as in zeo.conf.

    Raise OSError when that cannot be told.
    """
    from ZConfig.datatypes import SocketBindingAddress

    parsed = SocketBindingAddress(address)
    try:
        if parsed.family == socket.AF_UNIX:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(PATIENCE)
                one.connect(parsed.address)
        else:
            host, port = parsed.address[:2]
            socket.create_connection((host or "localhost", port), PATIENCE).close()
    except BlockingIOError:  # more connections than it can take wait for it already
        return True
    except socket.gaierror:
        return False
    except OSError as error:
        if (
            error.errno in NOBODY or error.errno is None and not isinstance(error, TimeoutError)
        ):  # such as a path too long for a socket
            return False
        raise
    return True
