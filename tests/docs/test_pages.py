"""The documentation matches the program: commands, options, errors, structures, templates, README."""

from __future__ import annotations

import configparser
import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import msgspec
import pytest

from zodb_vault.cli.main import COMMANDS, cli
from zodb_vault.config import backend_registry as backends
from zodb_vault.config import settings, storages
from zodb_vault.config.sites import resolve_site
from zodb_vault.config.zopeconf import read_zope_conf
from zodb_vault.errors import ExitCode, VaultError
from zodb_vault.model import manifest
from zodb_vault.model.manifest import Reason
from zodb_vault.strategies.relstorage.adapters import ADAPTERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in DOCS.rglob("*.rst")
    if "_build" not in path.parts
}
TEMPLATES = sorted((ROOT / "templates").iterdir())
LINE = re.compile(
    r"^\s*(?:\$ |\d+ \d+ \* \* \* |ExecStart=)?(?:env/bin/|/\S+/)?(zodb-vault (?!COMMAND).*)$", re.MULTILINE
)
INLINE = re.compile(r"``(zodb-vault [a-z][^`]*)``")
KEY = re.compile(r"``([a-z0-9_]+)``")


def commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        one = cli.get_command(click.Context(cli), name)
        assert one is not None
        found |= (
            {f"{name} {inner}": each for inner, each in one.commands.items()}
            if isinstance(one, click.Group)
            else {name: one}
        )
    return found


def error_classes(root: type[VaultError] = VaultError) -> list[type[VaultError]]:
    return [root, *(each for child in root.__subclasses__() for each in error_classes(child))]


def test_the_reference_of_the_commands_is_made_from_the_program() -> None:
    assert ".. click:: zodb_vault.cli.main:cli" in PAGES["reference/commands.rst"]
    assert ":nested: full" in PAGES["reference/commands.rst"]


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = commands()[name]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_mentioned_in_prose(name: str) -> None:
    prose = "".join(text for page, text in PAGES.items()) + (ROOT / "README.rst").read_text()
    assert f"zodb-vault {name}" in prose or f"``{name}``" in prose


@pytest.mark.parametrize(
    "name",
    sorted(
        name for name, each in commands().items() if any(option.name == "as_json" for option in each.params)
    ),
)
def test_every_document_is_described(name: str) -> None:
    assert f"\n``{name}``\n" in PAGES["reference/commands.rst"]


def test_exit_codes_and_error_kinds_are_listed() -> None:
    page = PAGES["reference/exit-codes.rst"]
    listed = {int(code) for code in re.findall(r"^   (\d+): ", page, re.MULTILINE)}
    assert listed == set(ExitCode)
    assert {error.exit_code for error in error_classes()} < set(ExitCode)
    assert ".. error-kinds::" in page
    kinds = [error.kind for error in error_classes()]
    assert len(kinds) == len(set(kinds))
    shown = {int(code) for code in re.findall(r"^  (\d+) ", cli.epilog or "", re.MULTILINE)}
    assert shown == listed


def test_the_tree_of_errors_at_the_top_of_the_module_is_the_real_one() -> None:
    import zodb_vault.errors as module

    drawn = {
        name: (int(code), kind)
        for name, code, kind in re.findall(r"(\w+) +(\d+)  ([a-z-]+)$", module.__doc__ or "", re.MULTILINE)
    }
    assert drawn == {error.__name__: (error.exit_code, error.kind) for error in error_classes()}


def test_every_error_has_a_next_step_and_a_docstring() -> None:
    for error in error_classes():
        assert error.__doc__
        assert (error(["x"]) if error.__name__ == "ConfigurationError" else error("x")).hint  # type: ignore[arg-type]


def structures() -> dict[str, type[msgspec.Struct]]:
    found = {
        name: one
        for name, one in vars(manifest).items()
        if isinstance(one, type) and issubclass(one, msgspec.Struct)
    }
    return {name: one for name, one in found.items() if one.__module__ == manifest.__name__}


@pytest.mark.parametrize("name", sorted(structures()))
def test_every_key_of_the_repository_is_described(name: str) -> None:
    described = set(KEY.findall(PAGES["reference/repository-format.rst"]))
    assert set(structures()[name].__struct_fields__) <= described


def test_no_key_is_described_that_does_not_exist() -> None:
    tables = re.findall(
        r"^   \* - ((?:``[a-z0-9_]+``(?:, )?)+)\n     - ",
        PAGES["reference/repository-format.rst"],
        re.MULTILINE,
    )
    described = {key for row in tables for key in KEY.findall(row)}
    real = {key for one in structures().values() for key in one.__struct_fields__} | {"kind"}
    assert described - real <= set(reasons())


def reasons() -> list[str]:
    return list(get_args(get_type_hints(Reason)["code"]))


def test_every_reason_is_described() -> None:
    assert len(reasons()) == 9
    for code in reasons():
        assert f"   * - ``{code}``" in PAGES["reference/repository-format.rst"]


def keys_of(struct: type[msgspec.Struct], prefix: str) -> list[str]:
    found = []
    for name, kind in settings_kinds(struct).items():
        path = f"{prefix}.{name}"
        found += (
            keys_of(kind, path) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else [path]
        )
    return found


def settings_kinds(struct: type[msgspec.Struct]) -> dict[str, Any]:
    from zodb_vault.config.keys import kinds

    return kinds(struct)


def test_every_key_of_the_configuration_and_every_variable_is_described() -> None:
    page = PAGES["reference/configuration.rst"]
    keys = [key for name, struct in settings.TABLES.items() for key in keys_of(struct, name)] + keys_of(
        settings.SiteSettings, "site.NAME"
    )
    keys += keys_of(settings.PolicySettings, "policy.NAME")
    for key in keys:
        assert f"``{key}``" in page
    for option in ("config", "site", "repository", "zope_conf", "zeo_conf", "data_fs", "blob_dir"):
        assert f"``ZODB_VAULT_{option.upper()}``" in page


def test_every_section_that_is_understood_is_described_and_no_other() -> None:
    page = PAGES["reference/zope-conf.rst"].partition("Storages of other packages\n===")[0]
    described = {
        section
        for row in re.findall(r"^   \* - (``<.*)$", page, re.MULTILINE)
        for section in re.findall(r"<([a-z0-9]+)>", row)
    }
    assert described == {*storages.READERS, *backends.OURS} - storages.NOT_STORAGES
    assert set(ADAPTERS) <= set(re.findall(r"<([a-z0-9]+)>", page))
    assert backends.ENTRY_POINTS in PAGES["reference/zope-conf.rst"]


def test_the_reader_of_another_package_that_is_shown_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", PAGES["reference/zope-conf.rst"])
    names: dict[str, Any] = {}
    exec(textwrap.dedent(source), names)
    found = backends.Registered("mirror.vault:MIRROR", names["MIRROR"], ours=False)
    monkeypatch.setattr(backends, "find_other", {"mirrorstorage": found}.get)
    (tmp_path / "zope.conf").write_text(
        "<mirrorstorage>\n<filestorage>\npath /srv/Data.fs\n</filestorage>\n</mirrorstorage>\n"
    )
    assert [
        one.data_fs for one in read_zope_conf(tmp_path / "zope.conf", "plone", {}, tmp_path).databases
    ] == ["/srv/Data.fs"]


def parsed(line: str) -> None:
    """Let the real parser read a command line of the documentation; nothing is run."""
    arguments = shlex.split(line.replace("...", ""), comments=True)[1:]
    context = cli.make_context("zodb-vault", list(arguments), resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if not rest:
        return
    name, command, rest = cli.resolve_command(context, rest)
    assert command is not None
    with command.make_context(name, list(rest), parent=context) as inner:
        if isinstance(command, click.Group):
            rest = [*inner._protected_args, *inner.args]
            name, nested, rest = command.resolve_command(inner, rest)
            assert nested is not None
            nested.make_context(name, list(rest), parent=inner)


def lines_of(text: str) -> list[str]:
    joined = re.sub(r" *\\\n *", " ", text)  # a command may go on in the next line
    return [
        line
        for line in (*LINE.findall(joined), *INLINE.findall(joined))
        if not line.rstrip().endswith(("--help", "completion"))
    ]


@pytest.mark.parametrize(
    "place", [*sorted(PAGES), "README.rst", *(f"templates/{path.name}" for path in TEMPLATES)]
)
def test_every_command_line_that_is_shown_is_understood(place: str) -> None:
    text = PAGES[place] if place in PAGES else (ROOT / place).read_text()
    for line in lines_of(text):
        try:
            parsed(line)
        except (click.ClickException, VaultError) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else error.message
            if "Missing argument" not in message:
                pytest.fail(f"{line}: {message}")


def test_the_documentation_shows_command_lines_at_all() -> None:
    assert len(lines_of((ROOT / "README.rst").read_text())) >= 9
    assert len(lines_of(PAGES["how-to/filestorage.rst"])) >= 10
    assert len(lines_of((ROOT / "templates" / "crontab").read_text())) == 2
    with pytest.raises(click.ClickException):
        parsed("zodb-vault create --nmae x")
    with pytest.raises(VaultError):
        parsed("zodb-vault craete")


# templates


def test_the_configuration_is_read_by_the_real_reader(tmp_path: Path) -> None:
    read = settings.load_settings(ROOT / "templates" / "zodb-vault.toml", {}, tmp_path)
    assert list(read.sites) == ["plone"]
    assert read.repository.location == "/srv/backups"


def test_the_files_for_kubernetes_are_read_by_the_real_readers(tmp_path: Path) -> None:
    text = (ROOT / "templates" / "kubernetes-cronjob.yaml").read_text()
    files = {name: block(text, name) for name in ("zodb-vault.toml", "zope.conf")}
    assert tomllib.loads(files["zodb-vault.toml"])
    for name, content in files.items():
        (tmp_path / name).write_text(content.replace("/etc/zodb-vault", str(tmp_path)))
    read = settings.load_settings(tmp_path / "zodb-vault.toml", {}, tmp_path)
    site = resolve_site(read, site=None, given=None, environment={}, cwd=tmp_path)
    assert [(one.data_fs, one.blob_dir) for one in site.databases] == [
        ("/data/filestorage/Data.fs", "/data/blobstorage")
    ]
    assert read_zope_conf(tmp_path / "zope.conf", "plone", {}, tmp_path).databases == site.databases
    assert '["zodb-vault", "create", "-q"]' in text


def block(text: str, name: str) -> str:
    """Return a literal block of a YAML file."""
    after = text.split(f"  {name}: |\n")[1]
    lines = []
    for line in after.splitlines():
        if line.strip() and not line.startswith("    "):
            break
        lines.append(line[4:])
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if path.suffix in (".service", ".timer")], ids=lambda path: path.name
)
def test_the_units_of_systemd_are_units(path: Path) -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(path.read_text())
    assert "Unit" in unit
    if path.suffix == ".service":
        assert unit["Service"]["ExecStart"].endswith("zodb-vault create -q")
    else:
        assert unit["Timer"]["OnCalendar"]


def test_every_template_is_known_to_these_tests_or_to_others() -> None:
    here = {"crontab", "kubernetes-cronjob.yaml", "zodb-vault.service", "zodb-vault.timer", "zodb-vault.toml"}
    others = {path.name for path in TEMPLATES} - here
    sources = "".join(
        path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)
    )
    assert here <= {path.name for path in TEMPLATES}
    assert {name for name in others if name not in sources} == set()


# README


def test_the_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z]+)", (ROOT / "README.rst").read_text()))
    assert {"demo", "test", "lint", "docs", "bench"} <= named
    for target in named & {"demo", "test", "lint", "docs", "bench"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert (ROOT / "demo" / "demo.py").exists()
    assert (ROOT / "tests" / "data" / "plone-site.tar.zst").exists()


def test_the_architecture_page_shows_the_layers_that_are_checked() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    page = PAGES["explanation/architecture.rst"]
    for layer in layers:
        for package in re.findall(r"[a-z]+", layer):
            assert f"{package}/" in page or f"{package}.py" in page
    for module in re.findall(r"``([a-z]+/[a-z]+\.py)``", page):
        assert (ROOT / "src" / "zodb_vault" / module).exists(), module
