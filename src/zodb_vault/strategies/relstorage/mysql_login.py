"""Log in to MySQL or MariaDB; the password never reaches an argument list."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

from ...errors import ConfigurationError, SourceError, VaultError
from ...model.source import Database

CONNECT_TIMEOUT: Final = 30


class Login:
    """How to log in to the database of a storage section, ourselves and with a program."""

    def __init__(self, database: Database) -> None:
        def option(key: str) -> str:
            return database.option(f"mysql.{key}")

        self.name = option("db")
        self._given = {
            key: option(key)
            for key in ("host", "user", "port", "unix_socket", "read_default_file")
            if option(key)
        }
        self._password = option("passwd")
        if not self.name:
            raise ConfigurationError([f"<mysql> of {database.name} says no db"])

    def connect(self) -> Any:
        """Log in; raise SourceError, or ConfigurationError when PyMySQL is not installed."""
        try:
            import pymysql
        except ImportError:
            raise ConfigurationError(["PyMySQL is not installed"], "pip install PyMySQL") from None
        known: dict[str, Any] = {key: value for key, value in self._given.items() if key != "port"}
        if "port" in self._given:
            known["port"] = int(self._given["port"])
        if not os.path.exists(known.get("unix_socket", "/")):
            # PyMySQL would leave its end of it open
            raise SourceError(
                f"{self.where} does not answer: there is no such socket",
                "start the server, or correct unix_socket",
            )
        with translate_errors():
            return pymysql.connect(
                database=self.name,
                password=self._password,
                connect_timeout=CONNECT_TIMEOUT,
                charset="utf8mb4",
                **known,
            )

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of a program; no secret is in them."""
        names = {"read_default_file": "defaults-file", "unix_socket": "socket"}
        given = sorted(
            self._given.items(), key=lambda one: one[0] != "read_default_file"
        )  # which has to come first
        return [f"--{names.get(key, key)}={value}" for key, value in given] + [
            "--default-character-set=utf8mb4"
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that gives a program the password."""
        return {"MYSQL_PWD": self._password} if self._password else {}

    @property
    def where(self) -> str:
        """Return which database it is."""
        host = self._given.get("unix_socket") or self._given.get("host", "localhost")
        return f"mysql://{host}:{self._given.get('port', '3306')}/{self.name}"


def location(database: Database) -> str:
    """Return which database it is."""
    return Login(database).where


@contextlib.contextmanager
def translate_errors(failure: type[VaultError] = SourceError) -> Iterator[None]:
    """Turn an error of PyMySQL into one of ours."""
    import pymysql

    try:
        yield
    except pymysql.MySQLError as error:
        text = str(error.args[1]) if len(error.args) > 1 else str(error) or type(error).__name__
        raise failure(f"MySQL: {text}", "check the login in zope.conf, and the log of the server") from None
