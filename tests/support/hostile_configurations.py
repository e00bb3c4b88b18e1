"""Broken configurations: invented ones and damaged real ones; each may hold a secret in any place."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

REAL = {
    path.name: path.read_text()
    for path in sorted((Path(__file__).parents[1] / "data" / "configs").rglob("*.conf"))
}
KEYS = [
    "path",
    "blob-dir",
    "shared-blob-dir",
    "server",
    "password",
    "passwd",
    "dsn",
    "s3-secret-key",
    "s3-access-key",
    "mount-point",
    "data_dir",
    "instancehome",
]
TYPES = [
    "zodb_db",
    "zodb",
    "filestorage",
    "relstorage",
    "postgresql",
    "sqlite3",
    "zeoclient",
    "blobstorage",
    "s3blobstorage",
    "pgjsonb",
    "demostorage",
    "zeo",
    "odd",
]
SECRET = "hunter2"
SECRET_LINES = st.sampled_from(
    [
        f"password {SECRET}",
        f"passwd a${SECRET}",
        f"dsn host=/nowhere password={SECRET}",
        f"dsn postgresql://u:{SECRET}@h/db",
        f"dsn postgresql://u:{SECRET}/@h/db",
        f"s3-secret-key {SECRET}",
        f"dsn password='{SECRET}",
        f"%define pw {SECRET}\npassword $pw",
        f"%define pw {SECRET}\npath /x\n%define pw other",
        f"s3-endpoint-url http://u:{SECRET}@h",
        # as people mistype and break them
        f"pasword {SECRET}",
        f"dsn host=/nowhere\n  password={SECRET}",
        f"dsn host=/nowhere\n  application_name=a\n  password = {SECRET}",
        f"dsn host=/nowhere;password={SECRET}",
        f"dsn dbname=postgresql://u:{SECRET}@h/db",
        f"{SECRET}_1 x",
        f"dsn\n{SECRET} x",
    ]
)
OPENING = st.builds("<{}{}>".format, st.sampled_from(TYPES), st.sampled_from(["", " main", " a/b", "/", " "]))
CLOSING = st.builds("</{}{}>".format, st.sampled_from(TYPES), st.sampled_from(["", " main"]))
VALUES = st.sampled_from(
    [
        "/srv/x",
        "on",
        "off",
        "maybe",
        "rel/x",
        "~",
        "$a",
        "$(HOME)",
        "$(NONE)",
        "$",
        "",
        "8100",
        "\u20ac",
        "a" * 300,
        "/proc/self/mem/x",
    ]
)
PAIRS = st.builds("{} {}".format, st.sampled_from(KEYS), VALUES)
DIRECTIVES = st.sampled_from(
    [
        "%define a b",
        "%include zope.conf",
        "%include none",
        "%import x",
        "%define",
        "%x y",
        "%include file:///dev/null",
        "%include %00",
    ]
)
LINES = st.one_of(
    OPENING,
    OPENING,
    CLOSING,
    CLOSING,
    PAIRS,
    PAIRS,
    DIRECTIVES,
    SECRET_LINES,
    SECRET_LINES,
    st.text(max_size=20).filter(lambda t: SECRET not in t),
)


def section_text(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda t, name, body: f"<{t}{name}>\n" + "\n".join(body) + f"\n</{t}>",
        st.sampled_from(TYPES),
        st.sampled_from(["", " main"]),
        st.lists(inner, max_size=5),
    )


WELL_FORMED = st.lists(st.recursive(st.one_of(PAIRS, SECRET_LINES), section_text, max_leaves=12), max_size=6)


def damaged(text: str, damages: list[tuple[str, int, str]]) -> str:
    """Return a configuration with lines lost, doubled, swapped, misspelled or added.

    A secret keeps its own line.
    """
    lines = text.replace("HUNTER2", SECRET).splitlines() or [""]
    for what, place, new in damages:
        at = place % len(lines)
        line = lines[at]
        if what == "lose" and len(lines) > 1:
            del lines[at]
        elif what == "double":
            lines.insert(at, line)
        elif what == "swap":
            other = place // 7 % len(lines)
            lines[at], lines[other] = lines[other], line
        elif what == "mistype" and SECRET not in line and line:
            spot = place // 3 % len(line)
            lines[at] = line[:spot] + new[:1] + line[spot + 1 :]
        elif what == "shout":
            key, space, value = line.partition(" ")
            lines[at] = key.upper() + space + value
        elif what == "put":
            lines.insert(at, new)
    return "\n".join(lines)


DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["lose", "double", "swap", "mistype", "shout", "put", "put"]),
        st.integers(0, 5000),
        LINES,
    ),
    max_size=6,
)
DAMAGED = st.builds(damaged, st.sampled_from(sorted(REAL.values())), DAMAGES)
