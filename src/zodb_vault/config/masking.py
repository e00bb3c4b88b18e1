"""Decide which values of a configuration are secret, and which parts of them may be shown.

Only values that are known to be harmless are shown. A DSN that cannot be parsed is hidden completely.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ..model.source import Option, Secret

SECRET_KEY = re.compile(
    r"pass(?!file)|pwd|secret|token|credential|(?:access|customer|private|encryption)[-_]?key|dsn|\bkey\Z",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(r"(?:pass\w*|pwd|secret\w*|token)\s*[=:]", re.IGNORECASE)
# Known keys of storages and zope.conf whose values are shown. Any other key may be the second line of a
# password that contains a line break.
KEYS = """
address allow-implicit-cross-references authenticate blob-cache-dir blob-cache-size blob-cache-size-check
blob-cache-size-check-external blob-chunk-size blob-dir blob-temp-dir blob-threshold bucket-name
cache-delta-size-limit cache-dir cache-local-compression cache-local-dir cache-local-dir-compress
cache-local-dir-count cache-local-dir-read-count cache-local-dir-write-max-size cache-local-mb
cache-local-object-max cache-local-storage cache-module-name cache-path cache-per-connection-mb cache-prefix
cache-servers cache-shared-mb cache-size cache-size-bytes cache-warm-batch-pause cache-warm-batch-size
cache-warm-concurrency cache-warm-decay cache-warm-delay cache-warm-jitter cache-warm-pct
cache-warm-wait-max certificate check-hostname class-factory client client-conflict-resolution client-label
clienthome commit-lock-id commit-lock-timeout compress connect-timeout connection-class container-class
create create-schema data-dir database-name db directory driver drop-cache-rather-verify
gevent-yield-interval history-preserving host instancehome invalidation-age invalidation-queue-size
keep-alive-delay keep-history lock-filename max-disconnect-poll min-disconnect-poll mount-point msgpack name
named-pipe pack-batch-timeout pack-commit-busy-delay pack-gc pack-keep-old pack-prepack-only
pack-skip-prepack packer page-size path pid-filename poll-interval pool-max-size pool-size pool-timeout port
quota read-default-file read-default-group read-only read-only-fallback realm replica-conf replica-timeout
replicate-from replicate-to revert-when-stale ro-replica-conf s3-addressing-style s3-bucket-name
s3-connect-timeout s3-download-connect-timeout s3-download-max-attempts s3-download-read-timeout
s3-endpoint-url s3-prefix s3-read-timeout s3-region s3-use-ssl server server-hostname server-sync
shared-blob-dir storage transaction-timeout unix-socket user username var wait wait-timeout
"""
KNOWN = frozenset(KEYS.split())
SECRETS = {
    "dsn",
    "key",
    "passwd",
    "password",
    "password-function",
    "s3-access-key",
    "s3-secret-key",
    "s3-sse-customer-key",
}
HARMLESS = {
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
    "connect_timeout",
    "sslmode",
    "service",
    "target_session_attrs",
}
# These patterns exclude other notations, such as ``db;password=...``, and a login within a URL.
PLAIN = re.compile(r"'?[\w.,:/\\ -]*'?")
NUMBERS = re.compile(r"'?[\d, ]*'?")
WORD = re.compile(r"\w+")
HIDDEN = "***"
PAIR = re.compile(r"\s*([A-Za-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s'\\]*)(?=\s|\Z)")


def is_secret(key: str) -> bool:
    """Return whether values of this key may hold a secret, in any section."""
    return SECRET_KEY.search(key.rpartition(".")[2]) is not None


def is_known(key: str) -> bool:
    """Return whether a key may be shown with its value, unless the value looks secret."""
    return key.rpartition(".")[2].lower().replace("_", "-") in KNOWN


def may_be_named(key: str) -> bool:
    """Return whether a key may be printed. A line ``password=...`` is a key, too, and may not."""
    return is_known(key) or key.rpartition(".")[2].lower().replace("_", "-") in SECRETS


def mask(key: str, value: str) -> Option:
    """Return the value of a key, as a Secret where it may hold one.

    This depends on the key and on the look of the value. The value of an unknown key is always a Secret.
    """
    if key.rpartition(".")[2] == "dsn":
        return Secret(value, _shown_url(value) if "://" in value else _shown_pairs(value))
    if is_secret(key) or not is_known(key) or SECRET_VALUE.search(value):
        return Secret(value)
    if "://" in value and "@" in value:
        return Secret(value, _shown_url(value))
    return value


def mask_dsn_words(text: str, dsn: str) -> str:
    """Return a text with the secret words of a DSN masked.

    Drivers repeat parts of the DSN in their errors.
    """
    value = mask("dsn", dsn)
    shown = value.shown if isinstance(value, Secret) else value
    hidden = (
        set(WORD.findall(dsn)) - set(WORD.findall(shown)) - HARMLESS - {"password", "postgres", "postgresql"}
    )
    return WORD.sub(lambda match: HIDDEN if match[0] in hidden else match[0], text)


def _shown_url(text: str) -> str:
    """Return scheme, user, host, port and path; ``***`` when anything else could be part of a password."""
    if len(text.split()) != 1:
        return "***"  # several values of one key: urlsplit would join them
    try:
        parts = urlsplit(text)
        host, port, user = parts.hostname or "", parts.port, parts.username
    except ValueError:
        return "***"
    if any("@" in rest for rest in (parts.path, parts.query, parts.fragment)):
        return "***"
    login = "" if user is None else f"{user}:***@" if parts.password is not None else f"{user}@"
    shown_port = f":{port}" if port is not None else ""
    hidden = "?***" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{login}{host}{shown_port}{parts.path}{hidden}"


def _shown_pairs(text: str) -> str:
    """Return ``key=value`` pairs, as libpq reads them, with the harmless values only.

    Any other text becomes ``***``.
    """
    shown, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = PAIR.match(text, at)
        if match is None:
            return "***"
        plain = NUMBERS if match[1] == "port" else PLAIN
        shown.append(
            f"{match[1]}={match[2] if match[1] in HARMLESS and plain.fullmatch(match[2]) else HIDDEN}"
        )
        at = match.end()
    return " ".join(shown)
