"""The documentation uses the words of the field.

No page has a word that was replaced, and the glossary defines each term that pages refer to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

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
