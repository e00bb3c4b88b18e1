"""The documentation and the program use the words of the field.

No page, message, help text, comment or name has a word that was replaced. The glossary defines each term that
pages refer to, and each value that options and manifests can have.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest

from zodb_vault.cli.main import COMMANDS, cli
from zodb_vault.model import manifest

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.rst", ROOT / "CHANGES.rst", *sorted(DOCS.rglob("*.rst"))]
    if "_build" not in path.parts
}
COLUMNS: Final = 120

# Each word that was replaced: a pattern, what to write instead, and a text that the pattern finds.
OLD_WORDS: Final = [
    (r"\bhalve[sd]?\b", "scope, component; split", "the halves of a backup"),
    (r"\b(storage|blob|first|second|other|one|each) half\b", "component", "the storage half"),
    (r"\bhalf a (backup|restore)\b", "only one component", "half a backup"),
    (
        r"\blines? of states\b|\babandoned lines?\b|\b(stands?|stood) on the current line\b",
        "timeline",
        "a line of states",
    ),
    (r"\boverlays?\b|\boverlaid\b|\blaid over\b", "delta", "overlays are laid over their base"),
    (r"\bhorizons?\b", "lock expiry", "the horizon of a lock"),
    (
        r"\bto (a|one|any) moment\b|\b(of|at) one moment\b|\bmoments? (is|are) (given|meant)\b",
        "point in time",
        "restored to one moment",
    ),
    (
        r"\b(transaction|backup) or (a )?moment\b|\bzone of moments\b|\bno moment tells\b",
        "time",
        "the zone of moments",
    ),
    (
        r"\b(is|are|was|were|be) cut (there|in|after|at|to)\b|\bthe cut\b(?! points?\b)|\bcuts\b",
        "cut point; truncated",
        "where each database is cut at",
    ),
    (
        r"\bstands\b(?! for)|\bstand (unchanged|still|in|on|beside|there)\b|\bstill stand",
        "matches, exists, is",
        "the marker stands",
    ),
    (r"\bstanding\b|\bstood\b", "existing, matching", "the oldest standing marker"),
    (r"\b(committed|those|stored|come|comes) behind\b", "after", "those behind it"),
    (r"\btold\b", "given, said", "where told to"),
    (r"\bsomebody\b|\beverybody\b", "a process, a session, an attacker", "somebody uses it"),
    (
        r"\bwho that is\b|\b(for|to|of|by|and) who\b|(^|[.:;] )who \w+s\b",
        "a session, the user",
        "who that is is named",
    ),
    (
        r"\basks? for (the |its |a |no )?blobs?\b|\bblobs? (that|which) [^.]{0,40}\basks? for\b",
        "references",
        "the blobs that a snapshot asks for",
    ),
    (r"\banew\b", "again", "made anew"),
    (r"\brecod(e|ed|es|er|ing)\b|\bencoded again\b", "re-encrypted", "recoding"),
    (r"\bcarrying\b|\bcarriers?\b", "transfer", "carrying objects"),
    (r"\bplacing\b|\bplacers?\b", "writing blobs", "placing blobs"),
    (r"\bjoining\b|\bpacks? (is|are|were) joined\b", "compaction", "joining packs"),
    (r"\btakes? turns\b|\bthe turns\b|\bturns of\b", "mutex", "runs take turns"),
    (r"\bpaces?\b", "rate limit", "the pace of a store"),
    (r"\bseal(s|ed|er|ing)?\b", "encrypt", "sealing"),
    (r"\bvoted\b", "pending", "voted transactions"),
    (r"\blacking\b", "missing", "lacking objects"),
    (r"\bexercis(e|es|ed|ing)\b", "probe", "the repository is really exercised"),
    (r"\bpatience\b|\bpassing error", "retry policy, transient error", "a passing error"),
    (r"\bwishes\b", "options", "the wishes of a user"),
    (r"\bsits? out\b|\bsat out\b", "retry", "requests sit out a throttled service"),
    (r"\ball the same\b", "nevertheless", "it is made all the same"),
]
# Words that no name of a class, function, variable, key or option contains any more.
OLD_NAME: Final = re.compile(
    r"adapting|anew|asked|asks|beat|behind|carrier|carrying|ending|filler|half|halves|"
    r"horizon|joining|keeper|lacking|littering|moment|moments|overlay|overlays|pace|passing|"
    r"patience|placer|placing|recoder|recoding|resilient|retaining|sealed|sealer|sealing|"
    r"somebody|standing|stands|stock|told|translated|verdict|voted|wishes"
)
WORD_IN_NAME: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Terms of our own, which have no entry in the glossary of another project.
OWN_TERMS: Final = [
    "base",
    "blob pack",
    "compaction",
    "component",
    "consistency",
    "cut point",
    "delta",
    "grace period",
    "heartbeat",
    "interrupted run",
    "kept files",
    "label",
    "lock expiry",
    "manifest",
    "marker",
    "mirror",
    "missing",
    "part",
    "probe",
    "restore point",
    "safety backup",
    "scope",
    "segment",
    "source defect",
    "sweep",
    "tier",
    "timeline",
    "trash",
    "whole",
]
INNOCENT: Final = [
    "on the command line",
    "a blank line, the last line of the file",
    "zodb-vault behind a ZEO server",
    "behind a pooler, or left behind",
    "behind its primary",
    "what each column stands for",
    "while the site is still running",
    "half a second, or more than half of it",
    "the command asks for the passphrase",
    "it turns out that it is used",
    "a shortcut; the cut point of a backup",
    "this takes a moment",
    "anyone who can write there",
    "parts that cat joins",
    "the host to whom it belongs",
]


def without_blocks(text: str) -> str:
    """Return a page without literal blocks; other lines keep their places."""
    lines: list[str] = []
    literal: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if literal is not None and (not line.strip() or indent > literal):
            lines.append("")
            continue
        literal = None
        directive = re.match(r"\s*\.\. ([a-z-]+)::", line)
        if directive and directive[1] in {"code-block", "literalinclude", "toctree"}:
            literal, line = indent, ""
        elif line.rstrip().endswith("::") and not directive:
            literal = indent
        lines.append(line)
    return "\n".join(lines)


def prose_of(text: str) -> str:
    """Return a page without literal blocks, literals and targets of references; line numbers stay."""

    def newlines(found: re.Match[str]) -> str:
        return "``" + "\n" * found[0].count("\n")

    found = re.sub(r"``.+?``|:(doc|ref):`[^`<]*`|<[^`>]*>`", newlines, without_blocks(text), flags=re.DOTALL)
    return re.sub(r"^ +", "", found, flags=re.MULTILINE)


def old_words_in(prose: str) -> list[str]:
    """Return what is to be replaced in a text, with its line and the word to use."""
    problems = []
    for pattern, instead, _ in OLD_WORDS:
        across_lines = pattern.replace(" ", r"\s")
        for found in re.finditer(across_lines, prose, re.IGNORECASE | re.MULTILINE):
            line = prose.count("\n", 0, found.start()) + 1
            problems.append(f"line {line}: {' '.join(found[0].split())!r} (instead: {instead})")
    return problems


@pytest.mark.parametrize(("pattern", "example"), [(pattern, example) for pattern, _, example in OLD_WORDS])
def test_each_pattern_finds_its_word(pattern: str, example: str) -> None:
    assert re.search(pattern, example, re.IGNORECASE)
    assert old_words_in(example)


@pytest.mark.parametrize("text", INNOCENT)
def test_ordinary_english_is_left_alone(text: str) -> None:
    assert old_words_in(text) == []


def test_literals_are_left_alone_and_phrases_are_found_across_lines() -> None:
    assert (
        old_words_in(prose_of("Run::\n\n   overlays\n\nand ``overlays``, :doc:`/decisions/overlays`.\n"))
        == []
    )
    assert old_words_in(prose_of("Run::\n\n   x\n\nThe storage\nhalf.\n")) == [
        "line 5: 'storage half' (instead: component)"
    ]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_an_old_word(page: str) -> None:
    assert old_words_in(prose_of(PAGES[page])) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_too_long(page: str) -> None:
    # output and commands are shown as they are
    assert [line for line in without_blocks(PAGES[page]).splitlines() if len(line) > COLUMNS] == []


def defined_terms() -> list[list[str]]:
    """Return the terms of the glossary: those of each entry, in the order of the page."""
    _, _, glossary = PAGES["docs/reference/glossary.rst"].partition(".. glossary::")
    return [
        entry.split("\n") for entry in re.findall(r"^   ([^\s:].*(?:\n   \S.*)*)$", glossary, re.MULTILINE)
    ]


def test_the_glossary_defines_every_term_that_pages_refer_to() -> None:
    entries = defined_terms()
    assert entries == sorted(entries, key=lambda entry: entry[0].lower())
    terms = [term for entry in entries for term in entry]
    assert len(terms) == len({term.lower() for term in terms})
    for page, text in PAGES.items():
        for shown, target in re.findall(r":term:`([^`<]+?)\s*(?:<([^`>]+)>)?`", text):
            term = " ".join((target or shown).split())
            assert term in terms, f"{page}: {term}"


def test_the_readme_has_no_roles_of_sphinx() -> None:
    assert not re.search(r":[a-z]+:`", PAGES["README.rst"])
    assert not re.search(r":[a-z]+:`", PAGES["CHANGES.rst"])


def commands(group: click.Group = cli) -> Iterator[click.Command]:
    """Yield every command of the program."""
    context = click.Context(group)
    for name in COMMANDS if group is cli else sorted(group.commands):
        command = group.get_command(context, name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def helps_of(command: click.Command) -> Iterator[str]:
    """Yield the help of a command and of its options."""
    yield command.help or ""
    for option in command.params:
        yield getattr(option, "help", None) or ""


def test_no_help_has_an_old_word() -> None:
    helps = [(command.name, text) for command in commands() for text in helps_of(command)]
    assert len(helps) > 100
    assert [(name, problem) for name, text in helps for problem in old_words_in(text)] == []


SOURCES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")
}


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield the texts for people in a module with their lines: messages, docstrings and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") > 1:
            yield node.lineno, re.sub(r"``.+?``", "``", node.value, flags=re.DOTALL)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_no_message_docstring_or_comment_has_an_old_word() -> None:
    found = {
        f"{path}:{line}": problems
        for path, source in SOURCES.items()
        for line, text in texts_of(source)
        if (problems := old_words_in(text))
    }
    assert found == {}


def names_in(source: str) -> Iterator[str]:
    """Yield every name that a module defines or uses: classes, functions, fields, variables, keys."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Dict(keys=keys):
                yield from (
                    key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
                )


def old_names_in(names: Iterator[str]) -> set[str]:
    """Return the names that contain an old word."""
    return {
        name for name in names if any(OLD_NAME.fullmatch(word.lower()) for word in WORD_IN_NAME.findall(name))
    }


@pytest.mark.parametrize(
    "source", ["stands = 1", "class TheSealer: ...", "def f(*, patience): ...", '{"half": 1}', "x.is_asked"]
)
def test_an_old_name_is_found_wherever_it_is(source: str) -> None:
    assert old_names_in(names_in(source))
    assert not old_names_in(names_in("understands = HalfwayHouse"))


def test_no_name_in_the_program_has_an_old_word() -> None:
    found = {path: names for path, source in SOURCES.items() if (names := old_names_in(names_in(source)))}
    assert found == {}


def literals_in(kind: Any) -> Iterator[str]:
    """Yield the values that a type allows."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from literals_in(part)


def values_of_manifests() -> set[str]:
    """Return the values that words of a manifest can have; reasons are in the page about the format."""
    structures = [
        each
        for each in vars(manifest).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    ]
    structures = [each for each in structures if each not in (manifest.Reason, manifest.RowFile)]
    return {
        value for each in structures for kind in get_type_hints(each).values() for value in literals_in(kind)
    }


def values_of_options() -> set[str]:
    """Return the values that options accept."""
    return {
        str(value)
        for command in commands()
        if command.name != "completion"
        for option in command.params
        if isinstance(option.type, click.Choice)
        for value in option.type.choices
    }


def test_the_glossary_defines_every_term_of_our_own_and_every_value() -> None:
    terms = {term for entry in defined_terms() for term in entry}
    assert set(OWN_TERMS) - terms == set()
    values = values_of_manifests() | values_of_options()
    assert {"incremental", "uncoordinated", "portable", "storage"} <= values
    page = PAGES["docs/reference/glossary.rst"]
    assert {value for value in values if value not in terms and f"``{value}``" not in page} == set()
