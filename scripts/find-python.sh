#!/bin/sh
# Print the path of the Python to make .venv with: $ZODB_VAULT_PYTHON if set, else the one .python-version names through
# pyenv, else the first of python3.12, python3.13, python3.11, python3 that is 3.11 or later and can make virtual environments.
set -eu
cd "$(dirname "$0")/.."

real_path() { "$1" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

candidates() {
    if command -v pyenv >/dev/null; then
        PYENV_VERSION=$(cat .python-version) pyenv which python 2>/dev/null || true
    fi
    # Every directory of PATH, since a shim that comes first may refuse to run.
    for name in python3.12 python3.13 python3.11 python3; do
        echo "$PATH" | tr : '\n' | while IFS= read -r directory; do
            if [ -x "$directory/$name" ]; then echo "$directory/$name"; fi
        done
    done
    if command -v pyenv >/dev/null; then
        ls "$(pyenv root)"/versions/*/bin/python 2>/dev/null || true
    fi
}

if [ -n "${ZODB_VAULT_PYTHON:-}" ]; then
    if ! real_path "$ZODB_VAULT_PYTHON"; then
        echo "find-python: $ZODB_VAULT_PYTHON is not a Python 3.11 or later" >&2
        exit 1
    fi
    exit 0
fi

without_venv=
list=$(candidates)
while IFS= read -r candidate; do
    python=$(real_path "$candidate") || continue
    if can_make_venv "$python"; then
        echo "$python"
        exit 0
    fi
    without_venv=${without_venv:-$python}
done <<END
$list
END

if [ -z "$without_venv" ]; then
    echo "find-python: no Python 3.11 or later found (looked for python3.12, python3.13, python3.11, python3)." >&2
    echo "find-python: install one, or name it: make PYTHON=/path/to/python3 ..." >&2
    exit 1
fi
# Debian packages ensurepip apart from Python.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "find-python: installing python3-venv" >&2
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3-venv; } >&2 </dev/null
    if can_make_venv "$without_venv"; then
        echo "$without_venv"
        exit 0
    fi
fi
echo "find-python: $without_venv cannot make virtual environments (no module ensurepip)." >&2
echo "find-python: on Debian and Ubuntu: apt-get install python3-venv" >&2
exit 1
