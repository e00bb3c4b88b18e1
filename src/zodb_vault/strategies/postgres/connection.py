"""Connections to PostgreSQL: the DSN without its secrets, and errors translated for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ...config.masking import mask_dsn_words
from ...errors import ConfigurationError, SourceError, VaultError
from .requirements import require_driver

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

APPLICATION: Final = "zodb-vault"


CONNECT_TIMEOUT: Final = 30


HINTS: Final = {
    "42501": "the backup needs the rights of the role that owns the tables and large objects: GRANT that "
    "role TO the one that backs up",
    "55P03": "another session holds a lock on this table, such as an ALTER TABLE or an interrupted "
    "upgrade; end it and run the command again",
    "57014": "the server is overloaded, or a statement_timeout of the role is too short",
    "28P01": "check user and password in the DSN",
    "3D000": "check the name of the database in the DSN",
}


WORDS: Final = {
    "permission denied": HINTS["42501"],
    "lock timeout": HINTS["55P03"],
    "could not obtain lock": HINTS["55P03"],
    "Query was: LOCK TABLE": HINTS["55P03"],
    "connection in wrong state": "the connection was cut; see the log of the server, and run the command "
    "again",
    "conflict with recovery": "the replica needed what the dump was reading: set hot_standby_feedback or "
    "max_standby_streaming_delay there",
    "invalid snapshot identifier": "the connection that held the snapshot was cut; run the command again",
    "server closed the connection": "see the log of the server, and run the command again",
    "terminating connection": "see the log of the server, and run the command again",
    "No space left": "free space on the server or in the repository",
}


def connect(dsn: str) -> Connection:
    """Log in; raise SourceError, or ConfigurationError when psycopg2 is not installed or the DSN is wrong."""
    require_driver()
    import psycopg2

    parameters = parameters_of(dsn)
    with translate_errors(dsn=dsn):
        return psycopg2.connect(
            **{"connect_timeout": CONNECT_TIMEOUT, "application_name": APPLICATION} | parameters
        )


def parameters_of(dsn: str) -> dict[str, str]:
    """Return what a DSN says, keyword by keyword; raise ConfigurationError."""
    require_driver()
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        return dict(parse_dsn(dsn))
    except psycopg2.ProgrammingError:
        raise ConfigurationError(
            ["the DSN of the database is not one that libpq understands"], "check dsn in zope.conf"
        ) from None


def shown_dsn(dsn: str) -> str:
    """Return a DSN without its secrets, for an argument list."""
    require_driver()
    from psycopg2.extensions import make_dsn

    if "sslpassword" in parameters_of(dsn):
        raise ConfigurationError(
            ["the DSN has an sslpassword, which no program can be given in secret"],
            "use an sslkey without a passphrase",
        )
    return str(make_dsn(**{key: value for key, value in parameters_of(dsn).items() if key != "password"}))


def secrets_of(dsn: str) -> dict[str, str]:
    """Return the environment that gives a program the password of a DSN."""
    password = parameters_of(dsn).get("password")
    return {"PGPASSWORD": password} if password else {}


def where(dsn: str) -> str:
    """Return which database a DSN means."""
    parameters = parameters_of(dsn)
    host = parameters.get("host") or parameters.get("hostaddr") or parameters.get("service") or "localhost"
    port = parameters.get("port", "5432")
    return f"postgresql://{host}:{port}/{parameters.get('dbname') or parameters.get('user', '')}"


@contextlib.contextmanager
def translate_errors(failure: type[VaultError] = SourceError, dsn: str = "") -> Iterator[None]:
    """Turn an error of psycopg2 into one of ours.

    Its first line, no secret of the DSN in it, and, where it is known, the next step.
    """
    import psycopg2

    try:
        yield
    except psycopg2.Error as error:
        lines = [line for line in (error.pgerror or str(error)).strip().splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        hint = HINTS.get(error.pgcode or "", "") or next(
            (hint for word, hint in WORDS.items() if word in text), ""
        )
        raise failure(
            f"PostgreSQL: {mask_dsn_words(text.removeprefix('ERROR:').strip(), dsn)}", hint
        ) from None
