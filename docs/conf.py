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

extensions = ["sphinx_click", "sphinx_copybutton", "exit_codes", "unsearched"]
# Administrators look for commands; a decision would come first, because its title repeats the words.
unsearched_folders = ["decisions"]
exclude_patterns = ["_build", "_ext"]
highlight_language = "none"
html_theme = "furo"
html_title = f"zodb-vault {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["code.css"]
# The button copies the commands of an example, without the prompt and without the output.
copybutton_prompt_text = "$ "
