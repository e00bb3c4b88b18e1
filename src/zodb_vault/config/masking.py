"""Decide which values of a configuration are secret, and what of them may be seen.

Only what is known to be harmless is shown: a DSN that cannot be taken apart is hidden whole.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ..model.source import Option, Secret

SECRET_KEY = re.compile(r"pass(?!file)|pwd|secret|token|credential|(?:access|customer|private|encryption)[-_]?key|dsn|\bkey\Z", re.IGNORECASE)
SECRET_VALUE = re.compile(r"(?:pass\w*|pwd|secret\w*|token)\s*[=:]", re.IGNORECASE)
HARMLESS = {"host", "hostaddr", "port", "dbname", "user", "application_name", "connect_timeout", "sslmode", "service", "target_session_attrs"}
PAIR = re.compile(r"\s*([A-Za-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s'\\]*)(?=\s|\Z)")


def is_secret(key: str) -> bool:
    """Tell whether values of this key may hold a secret, whatever section it stands in."""
    return SECRET_KEY.search(key.rpartition(".")[2]) is not None


def conceal(key: str, value: str) -> Option:
    """Return the value, as a Secret when its key or its look says that it may hold one."""
    if key.rpartition(".")[2] == "dsn":
        return Secret(value, _shown_url(value) if "://" in value else _shown_pairs(value))
    if is_secret(key) or SECRET_VALUE.search(value):
        return Secret(value)
    if "://" in value and "@" in value:
        return Secret(value, _shown_url(value))
    return value


def _shown_url(text: str) -> str:
    """Return scheme, user, host, port and path; ``***`` when anything else could be part of a password."""
    try:
        parts = urlsplit(text)
        host, port, user = parts.hostname or "", parts.port, parts.username
    except ValueError:
        return "***"
    if any("@" in rest for rest in (parts.path, parts.query, parts.fragment)):
        return "***"
    login = "" if user is None else f"{user}:***@" if parts.password is not None else f"{user}@"
    return f"{parts.scheme}://{login}{host}{f':{port}' if port is not None else ''}{parts.path}{'?***' if parts.query or parts.fragment else ''}"


def _shown_pairs(text: str) -> str:
    """Return ``key=value`` pairs as libpq reads them, only the harmless values; ``***`` when it is anything else."""
    shown, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = PAIR.match(text, at)
        if match is None:
            return "***"
        shown.append(f"{match[1]}={match[2] if match[1] in HARMLESS else '***'}")
        at = match.end()
    return " ".join(shown)
