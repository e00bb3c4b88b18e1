"""Sphinx configuration."""

import sys
from pathlib import Path

import zodb_vault

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "zodb-vault"
author = "zodb-vault contributors"
project_copyright = "2026, zodb-vault contributors"
release = zodb_vault.__version__
version = release

extensions = ["sphinx_click", "exit_codes"]
exclude_patterns = ["_build", "_ext"]
highlight_language = "none"
html_theme = "furo"
html_title = f"zodb-vault {release}"
html_copy_source = False
