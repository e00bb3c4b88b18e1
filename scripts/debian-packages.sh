#!/bin/sh
# See to it that the programs a target needs are there: sh scripts/debian-packages.sh test|bench
# As root on Debian the missing ones are installed; otherwise they are named, and this fails.
set -eu

# target, program (a name on PATH, or an absolute path that may hold a wildcard), Debian package
needed() {
    cat <<'END'
test   /usr/lib/postgresql/*/bin/initdb  postgresql
test   mariadbd    mariadb-server
test   mariadb-dump  mariadb-client
test   pg_dump     postgresql-client
test   age         age
test   sed         sed
test   sh          dash
test   sha256sum   coreutils
test   ssh-keygen  openssh-client
test   tar         tar
test   zstd        zstd
bench  borg        borgbackup
bench  restic      restic
bench  rsync       rsync
bench  zstd        zstd
END
}

present() {
    case $1 in
        /*) ls -d $1 >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# Prints nothing, or the packages that are missing, each once.
missing() {
    needed | while read -r target program package; do
        if [ "$target" = "$1" ] && ! present "$program"; then
            echo "$package"
        fi
    done | sort -u | tr '\n' ' '
}

packages=$(missing "$1")
[ -z "$packages" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "debian-packages: installing $packages" >&2
    apt-get -q update >&2 </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $packages >&2 </dev/null
    packages=$(missing "$1")
    [ -z "$packages" ] && exit 0
fi
echo "debian-packages: make $1 needs programs of these Debian packages: $packages" >&2
echo "debian-packages: install them: apt-get install $packages" >&2
exit 1
