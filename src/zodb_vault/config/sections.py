"""A configuration file as a tree of sections and keys with their lines; no schema, no packages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import ConfigurationError

UNSET_HINT = "run zodb-vault with the environment of the service, or set the variable for it"
TRUE, FALSE = ("yes", "true", "on"), ("no", "false", "off")


class Value(NamedTuple):
    """One line ``key value`` of a section; ``written`` is the key in its original spelling.

    ``unset`` are problems: the text is made of environment variables that are not set. Then it is empty.
    """

    key: str
    written: str
    text: str
    where: str
    unset: tuple[str, ...] = ()


def require_set(values: Iterable[Value]) -> None:
    """Raise ConfigurationError for values that are made of environment variables that are not set."""
    problems = [problem for value in values for problem in value.unset]
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)), UNSET_HINT)


class Section:
    """A section with its type and name in lower case; the outermost section has no type.

    Keys are compared in lower case and with ``-`` for ``_``. Its repr shows no values, because some are
    secret.
    """

    def __init__(self, type_: str, name: str | None, where: str, parent: Section | None = None) -> None:
        self.type = type_
        self.name = name
        self.where = where
        self.depth: int = parent.depth + 1 if parent else 0
        self.values: list[Value] = []
        self.sections: list[Section] = []
        self.notes: list[str] = []

    def __repr__(self) -> str:
        return f"<Section {self.label} at {self.where}>"

    @property
    def label(self) -> str:
        """Return the section as a user knows it, such as ``<zodb_db main>``."""
        return f"<{self.type} {self.name}>" if self.name else f"<{self.type}>"

    def addValue(self, key: str, value: str, position: tuple[int, object, str]) -> None:
        """Add a line; ZConfig's parser calls a method of this name."""
        where = place(position[2], position[0])
        self.values.append(Value(key.lower().replace("_", "-"), key, value, where))

    def texts(self, key: str) -> list[str]:
        """Return the values of a key that may be given several times."""
        found = [value for value in self.values if value.key == key]
        require_set(found)
        return [value.text for value in found]

    def text(self, key: str) -> str | None:
        """Return the value of a key, None when it is not given or empty.

        Raise ConfigurationError when it is given twice.
        """
        found = [value for value in self.values if value.key == key]
        if len(found) > 1:
            raise ConfigurationError(
                [f"{found[1].where}: {key} of {self.label} is given twice, first in {found[0].where}"]
            )
        require_set(found)
        return found[0].text or None if found else None

    def required(self, key: str) -> str:
        """Return the value of a key; raise ConfigurationError when there is none."""
        text = self.text(key)
        if text is None:
            raise self.error(f"{self.label} has no {key}")
        return text

    def flag(self, key: str, default: bool) -> bool:
        """Return whether a key is on; raise ConfigurationError when its value is neither on nor off."""
        text = self.text(key)
        if text is None:
            return default
        if text.lower() not in TRUE + FALSE:
            raise self.error(f"{key} of {self.label} must be on or off", key)
        return text.lower() in TRUE

    def error(self, message: str, key: str = "", hint: str = "") -> ConfigurationError:
        """Return an error with the file and line of the section, or of this key."""
        where = next((value.where for value in self.values if value.key == key), self.where)
        return ConfigurationError([f"{where}: {message}"], hint)

    def walk(self) -> Iterator[Section]:
        """Yield this section and all within it."""
        yield self
        for section in self.sections:
            yield from section.walk()


class Tree(NamedTuple):
    """A configuration file with all its includes.

    ``imports`` are the packages of ``%import``; they were not imported. ``unset`` are the problems of the
    ``%define`` names that are made of variables that are not set.
    """

    root: Section
    defines: dict[str, str]
    imports: list[str]
    unset: dict[str, tuple[str, ...]] = {}


def place(file: str, line: int) -> str:
    """Return a file and line in the form that messages use."""
    return f"{file}, line {line}"
