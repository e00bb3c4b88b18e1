"""Which Python packages and programs a site needs, and whether they are installed."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from typing import Final

from ...model.requirements import BOTO3, PYRAGE, ZODB, Package, opening_packages
from ...model.source import Database, Method
from ...strategies.backend_lookup import backend_of
from ..create.eligibility import refused
from .check import CheckResult, run_check
from .inputs import CheckInputs

TOOL_SECONDS: Final = 10


ALWAYS: Final = (
    ZODB,
    Package("ZConfig", ("ZConfig",), "4.0"),
    Package("click", ("click",), "8.1"),
    Package("rich", ("rich",), "13"),
    Package("msgspec", ("msgspec",), "0.18"),
    Package("zstandard", ("zstandard",), "0.22"),
)


def check_packages(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check the packages that zodb-vault needs everywhere, and for its repository."""
    for package in ALWAYS:
        yield check_package(package)
    location = inputs.settings.repository.location or ""
    if location.startswith("s3://"):
        yield check_package(BOTO3)
    if inputs.settings.repository.encryption.recipients:
        yield check_package(PYRAGE)


def check_site_packages(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check the packages that the configured method needs to back up the databases of the site."""
    needed: dict[Package, set[str]] = {}
    for database in _copied(inputs):
        for package in _packages(database, inputs.method_of(database)):
            needed.setdefault(package, set()).add(database.name)
    for package, names in needed.items():
        result = check_package(package)
        if not result.ok:
            inputs.unanswered |= names
        yield result


def _packages(database: Database, method: Method) -> Iterator[Package]:
    """Yield the packages of a method: only the portable one opens the storage itself."""
    requirements = backend_of(database).requirements(database)
    yield from requirements.drivers
    if method == "portable":
        yield from opening_packages(database, requirements)
    elif "s3" in database.blob_mode:
        yield BOTO3


def check_tools(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check the programs that dump the databases of the site; the portable method needs none."""
    dumped = (one for one in _copied(inputs) if inputs.method_of(one) != "portable")
    needed: dict[tuple[str, ...], set[str]] = {}
    for database in dumped:
        for tool in backend_of(database).requirements(database).tools:
            needed.setdefault(tool, set()).add(database.name)
    for tool, names in needed.items():
        for result in run_check(f"tool {tool[0]}", partial(check_tool, tool)):
            if not result.ok:
                inputs.unprepared |= names
            yield result


def _copied(inputs: CheckInputs) -> list[Database]:
    """Return the databases that the configured method can back up; the others have a finding of their own."""
    return [one for one in inputs.site.databases if not refused(one, inputs.method_of(one))]


def check_proof(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Tell what `verify --level restore` lacks here: backups and restores do not need it."""
    method = inputs.method_of(database)
    if method == "portable" or refused(database, method):
        return
    lacks = backend_of(database).missing_for_proof(database)
    if lacks is None:
        return
    message = "`verify --level restore` can run here"
    if lacks:
        message = f"`verify --level restore` would also need {', '.join(lacks)}; backups do not need it"
    yield CheckResult(f"proof {database.name}", True, message)


def check_package(package: Package) -> CheckResult:
    """Check that a package can be imported and is new enough."""
    name = f"package {package.distributions[0]}"
    hint = package.how_to_install
    if not package.runs_here:
        needs, here = (".".join(map(str, version)) for version in (package.python, sys.version_info[:2]))
        return CheckResult(name, False, f"needs Python {needs}, this is {here}", hint)
    try:
        importlib.import_module(package.module)
    except Exception as error:  # noqa: BLE001  what is broken inside a package may raise anything
        return CheckResult(name, False, f"cannot be imported: {type(error).__name__}: {error}", hint)
    version = next(filter(None, map(_version, package.distributions)), None)
    if version is None:
        return CheckResult(name, True, "can be imported; its version is not known")
    return CheckResult(
        name, _at_least(version, package.version), f"{version}, needed is {package.version} or later", hint
    )


def _version(distribution: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None


def _at_least(version: str, needed: str) -> bool:
    found, least = (
        tuple(int(n) for n in re.findall(r"\d+", text.partition("+")[0])) for text in (version, needed)
    )
    return found >= least


def check_tool(names: tuple[str, ...]) -> Iterator[CheckResult]:
    """Run the tool: a file of its name may be a wrapper that finds no version to run."""
    path = next((path for name in names if (path := shutil.which(name))), None)
    hint = (
        f"install the client programs of the database, and have them on PATH ({os.environ.get('PATH', '')})"
    )
    if path is None:
        yield CheckResult(f"tool {names[0]}", False, f"{' or '.join(names)} is not on PATH", hint)
        return
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TOOL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield CheckResult(
            f"tool {names[0]}", False, f"{path} --version did not end within {TOOL_SECONDS} seconds", hint
        )
        return
    said = (done.stdout or done.stderr).decode(errors="replace").strip().partition("\n")[0]
    yield CheckResult(f"tool {names[0]}", done.returncode == 0, f"{path}: {said}", hint)
