"""Read a ZConfig file into a tree, with the parser of ZConfig and without a schema.

ZConfig defines the syntax of sections, keys and directives. This module decides the rest: ``%import`` is
recorded, and nothing is imported. ``%include`` reads local files only. Variables come from the given
environment, and all missing ones are reported together. No message contains a value.

Import this module only when a file is read, because ZConfig is slow to load.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import ZConfig
from ZConfig.cfgparser import ZConfigParser

from ..errors import ConfigurationError
from .masking import is_known
from .sections import UNSET_HINT, Section, Tree, place

NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
REFERENCE = re.compile(
    rf"\$(?:(?P<dollar>\$)|\((?P<variable>{NAME})\)|\{{(?P<braced>{NAME})\}}|(?P<plain>{NAME}))?"
)
SCHEME = re.compile(r"([a-zA-Z][-+.a-zA-Z0-9]+):")

# Far above every real configuration. A file that exceeds them is no configuration, or an attack.
LARGEST_FILE = 4 << 20
MOST_REPLACED = 16 << 20
MOST_FILES = 500
DEEPEST = 40


def read_tree(path: Path, environment: Mapping[str, str]) -> Tree:
    """Return the tree of a file and of all that it includes.

    Raise ConfigurationError with file and line for each problem.
    """
    reading = _Reading(environment)
    root = Section("", None, str(path))
    try:
        reading.read(path, root)
    except ZConfig.ConfigurationError as error:
        reading.problems.append(
            f"{place(error.url or str(path), getattr(error, 'lineno', 0))}: {error.message}"
        )
    except ConfigurationError as error:
        reading.problems.extend(error.issues)
    if reading.problems:
        raise ConfigurationError(list(dict.fromkeys(reading.problems)), reading.hint)
    return Tree(root, reading.defines, reading.imports, reading.unset_defines)


class _Reading:
    """The state that the parsers of a file and its includes share; the ``context`` of ZConfig's parser."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.defines: dict[str, str] = {}
        self.imports: list[str] = []
        self.problems: list[str] = []
        self.hint = ""
        self.here = ""
        self.replaced = 0
        # the variables of the present line that are not set, and those of each %define
        self.unset: list[str] = []
        self.unset_defines: dict[str, tuple[str, ...]] = {}
        self.files = 0
        self._open: list[Path] = []

    def read(self, path: Path, section: Section) -> None:
        """Parse a file into a section; raise an error of ZConfig or ConfigurationError."""
        self.files += 1
        text = _text(path)
        self._open.append(path)
        _Parser(path, text, self).parse(section)
        self._open.pop()

    def may_include(self, path: Path) -> str | None:
        """Return why a file cannot be included, None when it can."""
        if path in self._open:
            return f"{path} includes itself"
        if self.files >= MOST_FILES or len(self._open) >= DEEPEST:
            return "too many files are included"
        return None

    def startSection(self, parent: Section, type_: str, name: str | None) -> Section:
        if parent.depth >= DEEPEST:
            raise ZConfig.ConfigurationError("sections are nested too deeply")
        section = Section(type_, name, self.here, parent)
        parent.sections.append(section)
        return section

    def endSection(self, parent: Section, type_: str, name: str | None, section: Section) -> None:
        """Do nothing: without a schema, a finished section is not checked."""

    def importSchemaComponent(self, package: str) -> None:
        self.imports.append(package)


class _Parser(ZConfigParser):  # type: ignore[misc, unused-ignore]
    def __init__(self, path: Path, text: str, reading: _Reading) -> None:
        super().__init__(SimpleNamespace(file=io.StringIO(text), url=str(path)), reading, reading.defines)
        self._hidden = False

    def start_section(self, section: Section, rest: str) -> Any:
        self.context.here = place(self.url, self.lineno)
        return super().start_section(section, rest)

    def end_section(self, section: Section, rest: str) -> Any:
        closed, _, name = rest.strip().lower().partition(" ")
        opened = self.stack[-1][:2] if self.stack else (closed, None)
        if name and (closed, name.strip()) == opened:
            # The zodb-convert templates of cookiecutter-zope-instance close <zeoclient source> in this way,
            # and Zope refuses it.
            section.notes.append(
                f"{place(self.url, self.lineno)}: "
                f"</{rest.strip()}> is read as </{closed}>; ZConfig itself refuses it"
            )
            rest = closed
        elif closed != opened[0]:
            self.error(
                f"</{rest.strip()}> is found where {section.label} of {section.where} has to be closed"
            )
        return super().end_section(section, rest)

    def handle_key_value(self, section: Section, rest: str) -> None:
        self._hidden = not is_known(rest.split(None, 1)[0])
        self.context.unset = []
        super().handle_key_value(section, rest)
        if self.context.unset:
            section.values[-1] = section.values[-1]._replace(text="", unset=tuple(self.context.unset))

    def handle_define(self, section: Section, rest: str) -> None:
        self._hidden = True
        self.context.unset = []
        super().handle_define(section, rest)
        if self.context.unset:
            self.context.unset_defines[rest.split(None, 1)[0].lower()] = tuple(self.context.unset)

    def handle_include(self, section: Section, rest: str) -> None:
        self._hidden = False
        self.context.unset = []
        target = self.replace(rest.strip())
        if self.context.unset:
            self.context.problems += self.context.unset
            self.context.hint = UNSET_HINT
            return
        path = self._included(target)
        if refusal := self.context.may_include(path):
            self.error(refusal)
        try:
            self.context.read(path, section)
        except ConfigurationError as error:
            # Only the reason why a file cannot be read: problems inside a file are errors of ZConfig.
            self.error(f"%include: {error.issues[0]}")

    def replace(self, text: str) -> str:
        return REFERENCE.sub(self._replacement, text)

    def error(self, message: str) -> NoReturn:
        if self.stack and message.startswith("unclosed"):
            message = (
                f"<{self.stack[-1][0]}{' ' + self.stack[-1][1] if self.stack[-1][1] else ''}> is not closed"
            )
        raise ZConfig.ConfigurationSyntaxError(message, self.url, self.lineno)

    def _included(self, target: str) -> Path:
        scheme = SCHEME.match(target)
        if scheme and scheme[1].lower() != "file":
            self.error(
                f"%include of {scheme[1]}: is not supported, only local files are; include a copy of the file"
            )
        try:
            return Path(self.url).parent / unquote(urlsplit(target).path if scheme else target)
        except ValueError:
            self.error("%include names no file")

    def _replacement(self, match: re.Match[str]) -> str:
        value: str = (
            "$"
            if match["dollar"]
            else self._variable(match["variable"])
            if match["variable"]
            else self._defined(match)
        )
        self.context.replaced += len(value)
        if self.context.replaced > MOST_REPLACED:
            self.error("the values of this file become too long when their references are replaced")
        return value

    def _variable(self, name: str) -> str:
        value: str | None = self.context.environment.get(name)
        if value is None:
            self.context.unset.append(
                f"{place(self.url, self.lineno)}: the environment variable {name} is not set"
            )
        return value or ""

    def _defined(self, match: re.Match[str]) -> str:
        name: str | None = match["braced"] or match["plain"]
        value: str | None = self.defines.get(name.lower()) if name else None
        self.context.unset += self.context.unset_defines.get((name or "").lower(), ())
        if value is None:
            # In a secret, the text after a dollar sign is a part of the secret and must not be shown.
            what = "a name" if self._hidden or not name else f"${name}, a name"
            self.error(f"{what} after $ that no %define above sets; a dollar sign itself is written $$")
        return value


def _text(path: Path) -> str:
    """Return the text of a configuration file; raise ConfigurationError when it cannot be one."""
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise ConfigurationError([f"{path} is not a file"])
        if status.st_size > LARGEST_FILE:
            raise ConfigurationError([f"{path} is too long to be a configuration file"])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            [f"{path} cannot be read: {error.strerror or 'input/output error'}"]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path} is not a text in UTF-8 (at byte {error.start})"]) from None
    except ValueError:
        raise ConfigurationError(["the path of a configuration file is not valid"]) from None
    if "\0" in text:
        raise ConfigurationError([f"{path} is not a text: it holds a zero byte"])
    return text
