"""Leave pages out of the full-text search: those below the folders in the setting ``unsearched_folders``."""

from typing import Any

from docutils import nodes


def leave_out(app: Any, _doctree: nodes.document) -> None:
    """Set the file-wide option ``no-search`` of the page that was read, if it is in such a folder."""
    page = app.env.docname
    if page.startswith(tuple(f"{folder}/" for folder in app.config.unsearched_folders)):
        app.env.metadata[page]["no-search"] = ""


def setup(app: Any) -> dict[str, Any]:
    """Register the setting and the step."""
    app.add_config_value("unsearched_folders", [], "env", [list])
    app.connect("doctree-read", leave_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
