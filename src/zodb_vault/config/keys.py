"""Check that a key of zodb-vault.toml, or a variable, is known and that its value has the right type.

The types are those of struct fields. A problem never contains a value, because the value may be a secret
under the wrong key.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NewType, Union, cast, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigurationError
from ..model.location import SUPPORTED, unsupported_kind
from ..model.s3settings import S3Settings
from ..model.source import METHODS, Method, Secret
from .copies import CopySettings
from .durations import parse_duration
from .paths import absolute, expand_home
from .rates import Rate, parse_rate

Location = NewType("Location", str)
# The name of the table with the bucket settings of a copy, for messages.
COPIES_S3 = "repository.copies.s3"
# Keys that users expect and that do not exist, with what to do instead.
INSTEAD = {
    "schedule.at": "is not supported: zodb-vault starts nothing by itself; start `zodb-vault create` with "
    "cron or a systemd timer, and set schedule.max_age, so that doctor reports when no backup was made"
}
FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class ProblemCollector:
    """The problems found so far."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._problems: list[str] = []

    def at(self, source: str, directory: Path) -> ValueSource:
        """Return a source whose problems are collected here.

        Its relative paths are resolved in ``directory``.
        """
        return ValueSource(self, source, directory)

    def named(self, prefix: str) -> list[str]:
        """Return the variables that begin with ``prefix``; an empty one counts as not set."""
        return sorted(name for name, text in self.environment.items() if name.startswith(prefix) and text)

    def add(self, problem: str) -> None:
        """Note a problem."""
        self._problems.append(problem)

    def raise_problems(self) -> None:
        """Raise ConfigurationError with all problems, if there are any."""
        if self._problems:
            raise ConfigurationError(self._problems)


class ValueSource(NamedTuple):
    """A file, a variable or an option that values come from."""

    problems: ProblemCollector
    name: str
    directory: Path

    def problem(self, key: str, what: str) -> None:
        """Note a problem of a key."""
        self.problems.add(f"{self.name}: {key} {what}" if key else f"{self.name} {what}")

    def unknown(self, path: str, given: Iterable[str], known: list[str]) -> None:
        """Note the unknown keys, each with the known key that was probably meant."""
        for key in given:
            if key not in known:
                whole = f"{path}.{key}" if path else key
                self.problem(whole, INSTEAD.get(whole) or f"is not known{suggestion(key, known)}")

    def value(self, key: str, given: object, kind: Any) -> Any:
        """Return the value converted to a type; None, with a problem noted, when that fails."""
        try:
            return CONVERSIONS[kind](given, self)
        except ValueError as error:
            self.problem(key, str(error))
            return None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the question whether a similar known word was meant; empty without a similar one."""
    close = get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def read_struct(
    source: ValueSource, path: str, given: object, struct: type[msgspec.Struct]
) -> dict[str, Any]:
    """Return the values of a table by field; values with problems are noted and left out."""
    if not isinstance(given, dict):
        source.problem(path, "has to be a table")
        return {}
    known = kinds(struct)
    source.unknown(path, given, list(known))
    found: dict[str, Any] = {}
    for key, kind in known.items():
        if key not in given:
            continue
        inner = f"{path}.{key}"
        value = (
            read_struct(source, inner, given[key], kind)
            if _is_table(kind)
            else source.value(inner, given[key], kind)
        )
        if value is not None:
            found[key] = value
    return found


def variables(
    reading: ProblemCollector, prefix: str, struct: type[msgspec.Struct], cwd: Path
) -> dict[str, Any]:
    """Return the values of the variables that begin with ``prefix``.

    A variable that is no key of the struct is noted as a problem.
    """
    keys = dict(_paths(struct))
    found: dict[str, Any] = {}
    for variable in reading.named(prefix):
        source = reading.at(variable, cwd)
        path = next((path for path in keys if prefix + "_".join(path).upper() == variable), None)
        if path is None:
            known = [prefix + "_".join(path).upper() for path in keys]
            source.problem("", f"is not known{suggestion(variable, known)}")
            continue
        _put(found, path, source.value("", reading.environment[variable], keys[path]))
    return found


@cache
def kinds(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the type of each field, without the None of an optional field."""
    return {name: _required(hint) for name, hint in get_type_hints(struct).items()}


def _required(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _paths(struct: type[msgspec.Struct]) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, kind in kinds(struct).items():
        found += (
            [((name, *rest), inner) for rest, inner in _paths(kind)] if _is_table(kind) else [((name,), kind)]
        )
    return found


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    if value is None:
        return
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def _text(given: object, source: ValueSource) -> str:
    if not isinstance(given, str):
        raise ValueError("has to be a string in quotes")
    if not given.strip():
        raise ValueError("is empty")
    if "\0" in given:
        raise ValueError("holds a zero byte")
    return given


def _texts(given: object, source: ValueSource) -> tuple[str, ...]:
    if isinstance(given, str):
        # A variable: recipients hold no commas.
        given = [text.strip() for text in given.split(",")]
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise ValueError("has to be a list of texts")
    return tuple(given)


def _count(given: object, source: ValueSource) -> int:
    if isinstance(given, str) and given.strip().isdecimal() and len(given) < 10:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError("has to be a whole number, 0 or more")
    return given


def _duration(given: object, source: ValueSource) -> timedelta:
    try:
        return parse_duration(_text(given, source))
    except ValueError as error:
        raise ValueError(f"is not a length of time: {error}") from None


def _rate(given: object, source: ValueSource) -> Rate:
    try:
        return parse_rate(_text(given, source))
    except ValueError as error:
        raise ValueError(f"is not a rate: {error}") from None


def _flag(given: object, source: ValueSource) -> bool:
    if isinstance(given, str):
        # A variable.
        given = FLAGS.get(given.strip().lower())
    if not isinstance(given, bool):
        raise ValueError("has to be true or false")
    return given


def _path(given: object, source: ValueSource) -> Path:
    return Path(absolute(expand_home(_text(given, source), source.problems.environment), source.directory))


def _paths_of(given: object, source: ValueSource) -> tuple[Path, ...]:
    if isinstance(given, str):
        # A variable: as in PATH.
        given = given.split(os.pathsep)
    if not isinstance(given, list):
        raise ValueError("has to be a list of paths")
    return tuple(_path(path, source) for path in given)


def _location(given: object, source: ValueSource) -> Location:
    text = _text(given, source)
    if kind := unsupported_kind(text):
        raise ValueError(f"is {kind}, which is not supported: {SUPPORTED}")
    if "://" not in text:
        return Location(str(_path(text, source)))
    try:
        host = urlsplit(text).netloc
    except ValueError:
        host = ""
    if not host:
        raise ValueError("is not a location, such as /srv/backups or s3://bucket/prefix")
    if "@" in host:
        raise ValueError(
            "contains credentials; put them into the environment or the configuration of the S3 client"
        )
    return Location(text.rstrip("/"))


def _copies(given: object, source: ValueSource) -> tuple[CopySettings, ...]:
    entries = list(_texts(given, source)) if isinstance(given, str) else given
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            'has to be a list of locations; one with recipients of its own is {location = "...", '
            'recipients = ["..."]}'
        )
    return tuple(_copy(entry, source) for entry in entries)


def _copy(given: object, source: ValueSource) -> CopySettings:
    if not isinstance(given, dict):
        return CopySettings(location=_location(given, source))
    if unknown := sorted(given.keys() - set(CopySettings.__struct_fields__)):
        raise ValueError(
            f"holds {unknown[0]}, which is not known{suggestion(unknown[0], CopySettings.__struct_fields__)}"
        )
    recipients = _texts(given["recipients"], source) if "recipients" in given else None
    s3 = S3Settings(**read_struct(source, COPIES_S3, given["s3"], S3Settings)) if "s3" in given else None
    return CopySettings(location=_location(given.get("location"), source), recipients=recipients, s3=s3)


def _method(given: object, source: ValueSource) -> Method:
    text = _text(given, source)
    if text not in METHODS:
        raise ValueError(f"has to be one of {', '.join(METHODS)}{suggestion(text, METHODS)}")
    return cast(Method, text)


def _secret(given: object, source: ValueSource) -> Secret:
    return Secret(_text(given, source))


CONVERSIONS: Mapping[Any, Callable[[object, ValueSource], Any]] = {
    str: _text,
    int: _count,
    bool: _flag,
    Rate: _rate,
    Path: _path,
    Method: _method,
    Secret: _secret,
    Location: _location,
    timedelta: _duration,
    tuple[str, ...]: _texts,
    tuple[CopySettings, ...]: _copies,
    tuple[Path, ...]: _paths_of,
}
