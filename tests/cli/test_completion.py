"""``zodb-vault completion``: scripts for the shells, and what they call."""

from __future__ import annotations

import pytest
from command_line import Vault, process


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(vault: Vault, shell: str) -> None:
    outcome = vault.bare("completion", shell)
    assert (outcome.status, outcome.err) == (0, "")
    assert "_ZODB_VAULT_COMPLETE" in outcome.out


def test_what_the_script_calls_names_commands_and_options() -> None:
    def completed(line: str) -> str:
        return process(
            env={
                "_ZODB_VAULT_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(line.count(" ")),
            }
        ).out

    assert "create" in completed("zodb-vault cr")
    assert "--skip-unchanged" in completed("zodb-vault create --sk")


def test_another_shell_is_refused(vault: Vault) -> None:
    assert vault.bare("completion", "tcsh").status == 2
