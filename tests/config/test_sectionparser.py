"""The parser: what ZConfig reads, nothing imported, every error with its place and without a value."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hostile_configurations import LINES, SECRET, WELL_FORMED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zodb_vault.config.masking import may_be_named
from zodb_vault.config.sectionparser import read_tree
from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import ConfigurationError, VaultError
from zodb_vault.model.source import masked


def tree_of(tmp_path: Path, text: str, **environment: str):
    (tmp_path / "a.conf").write_text(text, encoding="utf-8")
    return read_tree(tmp_path / "a.conf", environment)


def issues(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        tree_of(tmp_path, text, **environment)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.issues


def test_imports_are_recorded_and_not_executed(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, "%import this_package.does_not_exist\n<a>\n%import another\n</a>\n")
    assert tree.imports == ["this_package.does_not_exist", "another"]


def test_case_underscores_and_empty_sections(tmp_path: Path) -> None:
    root = tree_of(tmp_path, "<Outer NAME>\n Data_Dir  x y \n <inner/>\n</OUTER>\n").root
    assert (root.sections[0].label, root.sections[0].text("data-dir")) == ("<outer name>", "x y")
    assert root.sections[0].sections[0].type == "inner"


def test_substitution(tmp_path: Path) -> None:
    text = "%define A b\n%define C $A/$(ENV)\nk ${c}$$ $a\n"
    assert tree_of(tmp_path, text, ENV="e").root.text("k") == "b/e$ b"


def test_the_given_environment_counts_not_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_HERE", "x")
    assert tree_of(tmp_path, "k $(ONLY_HERE)\n").root.values[0].unset


def test_all_missing_variables_are_named_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "b.conf").write_text("\n\nk $(TWO)\n")
    root = tree_of(tmp_path, "k $(ONE)\n%include b.conf\n").root
    assert [value.unset for value in root.values] == [
        (f"{tmp_path}/a.conf, line 1: the environment variable ONE is not set",),
        (f"{tmp_path}/b.conf, line 3: the environment variable TWO is not set",),
    ]
    found = issues(tmp_path, "%include $(THREE)/c.conf\n")
    assert found == [f"{tmp_path}/a.conf, line 1: the environment variable THREE is not set"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("<a>\n", 1, "<a> is not closed"),
        ("<a>\n</b>\n", 2, "</b> is found where <a>"),
        ("</a>\n", 1, "unexpected section end"),
        ("<a x y>\n", 1, "malformed section header"),
        ("<a\n", 1, "malformed section start"),
        ("\n%wrong x\n", 2, "unknown directive"),
        ("%define\n", 1, "missing argument"),
        ("%define a 1\n%define a 2\n", 2, "cannot redefine"),
        ("path $unknown\n", 1, "$unknown"),
        ("k 5$\n", 1, "after $"),
        ("%include missing.conf\n", 1, "cannot be read"),
        ("%include a.conf\n", 1, "includes itself"),
        ("%include http://127.0.0.1:1/x\n", 1, "http: is not supported"),
        ("%include package:os:x\n", 1, "package: is not supported"),
        ("%include .\n", 1, "is not a file"),
        ("%include a%00b\n", 1, "is not valid"),
        ("%include file://[x\n", 1, "names no file"),
        ("k (v)\n(k) v\n", 2, "malformed configuration data"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    found = issues(tmp_path, text)
    assert len(found) == 1
    assert words in found[0]
    assert f"{tmp_path}/a.conf, line {max(line, 1)}" in found[0]


def test_an_unclosed_section_is_named_by_its_end(tmp_path: Path) -> None:
    assert "<a one> is not closed" in issues(tmp_path, "<a one>\nk v\n")[0]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"FS21" + bytes(64)])
def test_what_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.conf").write_bytes(content)
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        read_tree(tmp_path / "a.conf", {})


def test_what_is_no_configuration_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigurationError):
            read_tree(path, {})
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigurationError, match="too long"):
        read_tree(tmp_path / "huge", {})


def test_growth_without_end_is_stopped(tmp_path: Path) -> None:
    lines = ["%define a0 " + "x" * 1000] + [f"%define a{n + 1} {f'$a{n} ' * 20}" for n in range(8)]
    assert "become too long" in issues(tmp_path, "\n".join(lines))[0]
    assert "too deeply" in issues(tmp_path, "<a>\n" * 5000)[0]
    (tmp_path / "two.conf").write_text("")
    assert "too many" in issues(tmp_path, "%include two.conf\n" * 5000)[0]
    for n in range(100):
        (tmp_path / f"n{n}.conf").write_text(f"%include n{n + 1}.conf\n")
    assert "too many" in issues(tmp_path, "%include n0.conf\n")[0]


@pytest.mark.parametrize(
    "text",
    [
        "password pa$hunter2\n",
        "dsn password=$hunter2x\n",
        "%define pw a$hunter2\n",
        "password ${hunter2\n",
        "passwd $(hunter2\n",
        "secret-key $hunter2\n",
        "pasword $hunter2\n",
    ],
)
def test_a_dollar_sign_in_a_password_does_not_betray_it(tmp_path: Path, text: str) -> None:
    found = issues(tmp_path, text)
    assert "line 1" in found[0]
    assert "hunter2" not in found[0]


def test_nothing_but_zconfig_is_imported() -> None:
    code = (
        "import sys, pathlib\n"
        "import zodb_vault.config.zopeconf, zodb_vault.config.sites\n"
        "assert 'ZConfig' not in sys.modules\n"
        "zodb_vault.config.zopeconf.read_site(pathlib.Path(sys.argv[1]), 'x', {})\n"
        "print(*[m for m in ('ZODB', 'ZEO', 'relstorage', 'zodb_s3blobs') if m in sys.modules])"
    )
    conf = Path(__file__).parents[1] / "data" / "configs" / "s3_rs.conf"
    run = subprocess.run([sys.executable, "-c", code, str(conf)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


# Fuzz


def never_a_traceback_never_a_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "zope.conf"
    file.write_bytes(content)
    try:
        site = read_site(file, "plone", {"HOME": "/home/x"}, tmp_path)
    except VaultError as error:
        assert error.exit_code == 2
        printed = f"{error} {error!r} {error.hint} {error.__context__!r} {error.__cause__!r}"
    else:
        # what no storage knows is never printed, whether key or value
        shown = [
            {key: value for key, value in d.options.items() if may_be_named(key)} for d in site.databases
        ]
        named = [
            msgspec.structs.replace(d, options=options)
            for d, options in zip(site.databases, shown, strict=True)
        ]
        values = [list(masked(d.options).values()) for d in site.databases]
        printed = (
            f"{msgspec.structs.replace(site, databases=tuple(named))!r} "
            f"{[masked(options) for options in shown]} {values}"
        )
    assert SECRET not in printed


@given(st.lists(LINES, max_size=25))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzz_lines(tmp_path: Path, lines: list[str]) -> None:
    never_a_traceback_never_a_secret(tmp_path, "\n".join(lines).encode("utf-8", "surrogatepass"))


@given(WELL_FORMED)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzz_well_formed(tmp_path: Path, parts: list[str]) -> None:
    never_a_traceback_never_a_secret(tmp_path, "\n".join(parts).encode())


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzz_bytes(tmp_path: Path, content: bytes) -> None:
    never_a_traceback_never_a_secret(tmp_path, content)


@given(st.text(alphabet="ab$(){}A_1 ", max_size=12))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_substitution_is_that_of_zconfig(tmp_path: Path, text: str) -> None:
    from ZConfig import ConfigurationError as Refused
    from ZConfig.substitution import substitute

    defines = {"a": "x", "ab": "y$$"}
    try:
        # Through the environment ZConfig looks at that of the process; that of a shell has ``_``.
        with mock.patch.dict(os.environ, clear=True):
            expected: str | None = substitute(text.strip(), defines)
    except Refused:
        expected = None
    head = "%define a x\n%define ab y$$$$\n"
    try:
        found: str | None = tree_of(tmp_path, f"{head}k .{text}\n").root.text("k")
    except ConfigurationError:
        found = None
    assert (found is None) == (expected is None)
    if expected is not None and found is not None:
        assert found.removeprefix(".").strip() == expected.strip()
