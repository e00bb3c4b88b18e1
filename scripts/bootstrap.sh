#!/bin/sh
# Make .venv hold zodb-vault (editable) and the extras named as arguments: sh scripts/bootstrap.sh [EXTRA...]
# A stamp per set of extras makes the second run cost milliseconds; a change of setup.cfg installs again.
set -eu
cd "$(dirname "$0")/.."

extras=$(echo "$*" | tr ' ' ,)
stamp=.venv/.installed-${extras:-core}

say() { echo "bootstrap: $*" >&2; }

current() {
    [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$PWD" ] &&
        ! [ setup.cfg -nt "$stamp" ] && ! [ pyproject.toml -nt "$stamp" ] && ! [ scripts/bootstrap.sh -nt "$stamp" ]
}

# Two makes at once in one checkout: the second waits. The lock ends with this process.
if command -v flock >/dev/null; then
    exec 9<setup.cfg
    flock 9
fi
current && exit 0

# A .venv that was moved, or whose Python is gone, is of no use.
if [ -d .venv ] && { [ "$(cat .venv/.made-in 2>/dev/null)" != "$PWD" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    say "replacing .venv: it was moved, or is incomplete"
    rm -rf .venv
fi
if ! [ -d .venv ]; then
    python=$(sh scripts/find-python.sh)
    say "making .venv with $python"
    "$python" -m venv .venv
    printf %s "$PWD" >.venv/.made-in
fi

# The tests need the package that adds a backend, installed as a user would.
plugin=
case ",$extras," in *,test,*) plugin="--editable tests/plugins/msgpackstorage" ;; esac

say "installing zodb-vault${extras:+ with $extras}"
# shellcheck disable=SC2086  # two words, or none
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
    --editable ".${extras:+[$extras]}" $plugin
printf %s "$PWD" >"$stamp"
