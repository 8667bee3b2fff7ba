#!/bin/sh
# What `make install` and `make uninstall` do: systemd/install.sh install|uninstall
#
# PREFIX  where the program lives on the host that it is for; a folder of its own
# DESTDIR where that host's root is, for packages and images; this host is then left alone
# PYTHON  the interpreter that the program will run with, by the path that it has there
#
# Units and the like go to /usr/local/lib, which is for what the administrator has built; /etc is
# left to the changes that the administrator makes to them.
set -eu
# What lies outside of the program's own folder is to be reached by its user, too.
umask 022
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/opt/bootserve}
DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
DESTDIR=${DESTDIR%/}
PREFIX=${PREFIX%/}

lib=$DESTDIR/usr/local/lib
units=$lib/systemd/system
config=$DESTDIR/etc/bootserve
assets=$DESTDIR/var/lib/bootserve
command=$DESTDIR/usr/local/bin/bootserve
program=$DESTDIR$PREFIX
staging=$program.new

fail() {
    echo "bootserve: $*" >&2
    exit 1
}

check_arguments() {
    # These go into units and `#!` lines, which have no quotes for anything else.
    case $PREFIX in
    *[!A-Za-z0-9/._+-]*) fail "PREFIX=$PREFIX: letters, digits and / . _ + - only" ;;
    *//* | */ | */. | */./* | */.. | */../*)
        fail "PREFIX=$PREFIX: name a folder by its whole path, without // and dots between" ;;
    /home/* | /root/* | /run/user/*)
        fail "PREFIX=$PREFIX is out of reach for the service (ProtectHome=); choose another one" ;;
    /*[!/]*) ;;
    *) fail "PREFIX=$PREFIX: name a folder by its whole path, for example PREFIX=/opt/bootserve" ;;
    esac
    case $DESTDIR in
    "" | /*) ;;
    *) fail "DESTDIR=$DESTDIR: name a folder by its whole path" ;;
    esac
    if [ -z "$DESTDIR" ] && [ "$(id -u)" -ne 0 ]; then
        fail "needs root, or a DESTDIR=... of your own; try: sudo make $1"
    fi
    if [ -e "$program" ] && ! is_ours "$program"; then
        fail "$program is there and is not bootserve's; choose another PREFIX=..."
    fi
}

# A folder of its own, which may be replaced and removed as a whole. That bin/bootserve is there says
# nothing: /usr/local has one as well, the link that we put there.
is_ours() {
    [ -e "$1/pyvenv.cfg" ] && [ -e "$1/share/bootserve/bootserve.toml" ]
}

is_booted() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

build() {
    rm -rf "$staging"
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$(dirname "$staging")"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is not Python 3.11 or newer; name one with make install PYTHON=..."
    interpreter=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    # What a package is built with may lie anywhere.
    [ -n "$DESTDIR" ] || case $interpreter in
    /home/* | /root/*)
        fail "$interpreter is out of reach for the service (ProtectHome=); name another one, for" \
            "example make install PYTHON=/usr/bin/python3"
        ;;
    esac
    "$PYTHON" -m venv "$staging" ||
        fail "could not make a virtual environment, see above; where ensurepip is missing:" \
            "apt install python3-venv"
    PIP_ROOT_USER_ACTION=ignore "$staging/bin/python" -m pip install --quiet . ||
        fail "pip could not install, see above; nothing was changed. It needs the network once, to" \
            "reach PyPI or the index of your pip configuration"
    # Its own path stands in what it has generated, and it is about to move.
    grep -rlIF --exclude-dir=site-packages -- "$staging" "$staging" | while IFS= read -r file; do
        sed -i "s|$(quoted "$staging")|$PREFIX|g" "$file"
    done
    # The service's user runs it, whatever the umask here is.
    chmod -R u=rwX,go=rX "$staging"
}

quoted() {
    printf '%s\n' "$1" | sed 's/[].[*^$\|&]/\\&/g'
}

# One step, so that a server which is being upgraded, or started, never finds nothing there.
swap() {
    if [ -e "$program" ]; then
        "$PYTHON" - "$staging" "$program" <<'PYTHON_END' || two_steps
import ctypes, os, sys
AT_FDCWD, RENAME_EXCHANGE = -100, 2
old, new = map(os.fsencode, sys.argv[1:])
libc = ctypes.CDLL(None)
sys.exit(libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE) != 0)
PYTHON_END
    else
        mv -T "$staging" "$program"
    fi
}

# For file systems that cannot exchange two names.
two_steps() {
    rm -rf "$program.old"
    mv -T "$program" "$program.old"
    mv -T "$staging" "$program"
    mv -T "$program.old" "$staging"
}

# put MODE FILE DESTINATION: under its name at once, with this installation's paths in it.
put() {
    mkdir -p "$(dirname "$3")"
    sed "s|/opt/bootserve|$PREFIX|g" "$2" >"$3.new"
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
}

knows_backoff() {
    version=${SYSTEMD_VERSION:-$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')}
    [ "${version:-0}" -ge 254 ]
}

# The prefix that the units here were installed with, if there are any.
units_prefix() {
    if [ -e "$units/bootserve.service" ]; then
        sed -n 's|^ExecStart=\(/.*\)/bin/bootserve .*|\1|p' "$units/bootserve.service"
    fi
}

put_units() {
    put 644 systemd/bootserve.service "$units/bootserve.service"
    put 644 systemd/bootserve.socket "$units/bootserve.socket"
    if knows_backoff; then
        put 644 systemd/backoff.conf "$units/bootserve.service.d/backoff.conf"
    else
        rm -f "$units/bootserve.service.d/backoff.conf"
    fi
    put 644 systemd/sysusers.conf "$lib/sysusers.d/bootserve.conf"
    put 644 systemd/tmpfiles.conf "$lib/tmpfiles.d/bootserve.conf"
    mkdir -p "$(dirname "$command")"
    ln -sfn "$PREFIX/bin/bootserve" "$command"
}

put_config() {
    mkdir -p "$config"
    chmod 750 "$config"
    mkdir -p "$config/secrets"
    chmod 700 "$config/secrets"
    # What we have put there last time is kept beside the program, to tell whether it has changed.
    example=$program/share/bootserve/bootserve.toml
    if [ ! -e "$config/bootserve.toml" ]; then
        put 640 systemd/bootserve.toml "$config/bootserve.toml"
    elif ! cmp -s systemd/bootserve.toml "$config/bootserve.toml" &&
        ! cmp -s systemd/bootserve.toml "$example"; then
        put 640 systemd/bootserve.toml "$config/bootserve.toml.new"
        echo "$config/bootserve.toml is kept as it is; the example has changed, see bootserve.toml.new"
    fi
}

put_folders() {
    mkdir -p "$assets/x86_64" "$assets/i386" "$assets/arm64" "$assets/common"
    put 644 boot-assets/README.md "$assets/README.md"
}

install() {
    check_arguments install
    if [ -z "$DESTDIR" ] && ! command -v systemd-sysusers >/dev/null; then
        fail "this host has no systemd, whose units these are; make run needs none"
    fi
    build
    put_config
    mkdir -p "$staging/share/bootserve"
    cp systemd/bootserve.toml "$staging/share/bootserve/"
    put_folders
    if [ -z "$DESTDIR" ]; then
        systemd-sysusers "$PWD/systemd/sysusers.conf"
        systemd-tmpfiles --create "$PWD/systemd/tmpfiles.conf"
    fi
    swap
    before=$(units_prefix)
    unit_before=$(cat "$units/bootserve.service" 2>/dev/null || :)
    put_units
    if is_booted; then
        systemctl daemon-reload
        if ! systemctl --quiet is-active bootserve.service; then
            echo "Installed. To start it, now and at every boot: systemctl enable --now bootserve"
        elif [ "${before:-$PREFIX}" != "$PREFIX" ]; then
            # An upgrade starts a server again from where it was started the first time.
            echo "Installed, but the server that runs is still the one in $before, also after a" \
                "reload. To run this one: systemctl restart bootserve; new clients then wait until" \
                "the last transfer has ended. Nobody needs $before any more after that."
        else
            systemctl reload bootserve.service ||
                fail "installed, but the server that runs stays the old one; see" \
                    "journalctl -u bootserve, then systemctl reload bootserve"
            echo "The server that runs has been replaced by the new one; nothing was cut off."
            if [ "$unit_before" != "$(cat "$units/bootserve.service")" ]; then
                echo "The unit has changed, too: its limits and its sandbox are new after a" \
                    "systemctl restart bootserve, for which there is no hurry."
            fi
        fi
    fi
}

uninstall() {
    check_arguments uninstall
    if is_booted && [ -e "$units/bootserve.service" ]; then
        if systemctl --quiet is-active bootserve.service; then
            echo "Stopping bootserve; this waits for its last transfer."
        fi
        # Both at once: the socket would start the service again.
        systemctl disable --quiet --now bootserve.socket bootserve.service
    fi
    rm -rf "$program" "$staging"
    rm -f "$units/bootserve.service" "$units/bootserve.socket" \
        "$units/bootserve.service.d/backoff.conf" \
        "$lib/sysusers.d/bootserve.conf" "$lib/tmpfiles.d/bootserve.conf"
    if [ "$(readlink "$command")" = "$PREFIX/bin/bootserve" ]; then
        rm -f "$command"
    fi
    if cmp -s boot-assets/README.md "$assets/README.md"; then
        rm -f "$assets/README.md"
    fi
    if cmp -s systemd/bootserve.toml "$config/bootserve.toml"; then
        rm -f "$config/bootserve.toml"
    fi
    rm -f "$config/bootserve.toml.new"
    for folder in "$units/bootserve.service.d" "$units" "$lib/systemd" "$lib/sysusers.d" \
        "$lib/tmpfiles.d" "$config/secrets" "$config" "$assets/x86_64" "$assets/i386" \
        "$assets/arm64" "$assets/common" "$assets"; do
        rmdir "$folder" 2>/dev/null || :
    done
    for folder in "$config" "$assets"; do
        if [ -e "$folder" ]; then
            echo "$folder is yours and stays."
        fi
    done
    if is_booted; then
        systemctl daemon-reload
    fi
    if [ -z "$DESTDIR" ] && id bootserve >/dev/null 2>&1; then
        echo "The user bootserve stays; to remove it: userdel bootserve"
    fi
}

case ${1:-} in
install | uninstall) "$1" ;;
*) fail "usage: systemd/install.sh install|uninstall" ;;
esac
