#!/usr/bin/env bash
# Brings what ckpt's build, tests, demo and benchmarks need, and says what it does. Silent and quick when nothing is missing.
# usage: setup.sh build|python|bench     (each includes the ones before it), or setup.sh fuzz
#
# Everything it makes lies in the user's cache directory, but for Debian packages, which need root or sudo without a
# password. What the commands after it must know is written to setup.env there, for the Makefile to source.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ckpt"
venv="$cache/venv"
own=${CKPT_TEST_PYTHON:-}
# Whoever has sourced setup.env means the one that is made here.
if [ "$own" = "$venv/bin/python" ]; then own=""; fi
wheel="$cache/libclang"
want=${1:-python}

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    printf 'setup: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# True when version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Installs Debian packages; fails, without a word of its own, where that is not possible.
apt_install() {
    local as=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as=(sudo -n)
    fi
    say "installing Debian's $* with apt-get"
    # Package lists may be missing or old on a fresh machine, so a failure is worth one update and a second try.
    local install=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@")
    "${install[@]}" >"$cache/apt.log" 2>&1 && return
    "${as[@]}" apt-get update -qq >"$cache/apt.log" 2>&1 && "${install[@]}" >>"$cache/apt.log" 2>&1 && return
    say "apt-get failed (see $cache/apt.log)"
    return 1
}

need_rust() {
    local needed have
    needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml")
    command -v cargo >/dev/null || die "cargo is missing: install Rust $needed or later (with rustup, for example)"
    have=$(rustc --version | cut -d' ' -f2)
    at_least "${have%%-*}" "$needed" || die "Rust $have is too old: ckpt needs $needed or later" "Try: rustup update stable"
}

need_compiler() {
    if command -v gcc >/dev/null && command -v g++ >/dev/null; then return; fi
    apt_install gcc g++ || die "gcc and g++ are missing: RocksDB is C++" "Try: apt-get install gcc g++"
}

# The places where bindgen looks by itself, so that nothing need be exported for a libclang found there.
system_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then return; fi
    # Not libclang-cpp, which other packages bring and which bindgen can't use.
    { compgen -G '/usr/lib/llvm-*/lib/libclang.so*' || compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*'; } >/dev/null && return
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -qE '^\s*libclang(-[0-9.]+)?\.so'
}

# RocksDB's Rust bindings are generated at build time by bindgen, which loads libclang.
need_libclang() {
    # A wheel brought earlier stays in use: to change over would make cargo compile RocksDB again.
    if [ -e "$wheel/done" ]; then return; fi
    if system_libclang; then return; fi
    if apt_install libclang-dev; then return; fi
    say "Debian's libclang-dev can't be had here; bringing PyPI's libclang instead"
    need_python
    rm -rf "$wheel"
    if ! { "$python" -m venv "$wheel/venv" && "$wheel/venv/bin/python" -m pip install -q --disable-pip-version-check \
        --no-deps --target "$wheel/lib" libclang==18.1.1; } >"$cache/pip.log" 2>&1; then
        die "libclang can't be brought (see $cache/pip.log)" "Try: apt-get install libclang-dev"
    fi
    rm -rf "$wheel/venv"
    touch "$wheel/done"
}

need_python() {
    python=$(command -v python3) || die "python3 is missing: the tests and the demo need 3.11 or later" "Try: apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$("$python" --version) is too old: the tests and the demo need 3.11 or later"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv ||
        die "Python's venv module is missing" "Try: apt-get install python3-venv"
}

stamp_of() { sha256sum "$@" | sha256sum | cut -d' ' -f1; }

pip_install() { # into the environment $1
    "$1/bin/python" -m pip install -q --disable-pip-version-check --no-warn-script-location "${@:2}" >>"$cache/pip.log" 2>&1
}

# Fills a new environment without NVIDIA's libraries; fails when torch then doesn't work on this machine.
small_venv() {
    "$python" -m venv "$1" && pip_install "$1" --no-deps -r "$here/requirements.txt" || return
    if [ "$(uname -s)" = Linux ]; then
        "$1/bin/python" "$here/cpu_torch.py" "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" || return
    fi
    "$1/bin/python" -W ignore "$here/check_python.py"
}

full_venv() {
    "$python" -m venv "$1" && pip_install "$1" --no-deps -r "$here/requirements.txt" || return
    pip_install "$1" "$(grep '^torch==' "$here/requirements.txt")" || return
    "$1/bin/python" -W ignore "$here/check_python.py"
}

need_venv() {
    # A Python of the user's own that has the same packages does as well.
    if [ -n "$own" ]; then
        local lacking
        lacking=$("$own" -B "$here/check_python.py" --find 2>/dev/null) || die "CKPT_TEST_PYTHON is $own, which can't be run"
        [ -z "$lacking" ] || die "CKPT_TEST_PYTHON is $own, which has no $lacking" \
            "Try: $own -m pip install -r $here/requirements.txt"
        return
    fi
    local stamp new="$cache/venv.new"
    stamp=$(stamp_of "$here/requirements.txt" "$here/cpu_torch.py")
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
    need_python
    say "making a Python environment with torch, CPU only, in $venv (a 0.8 GB download, 2.4 GB on disk, about a minute)"
    : >"$cache/pip.log"
    rm -rf "$new"
    if ! small_venv "$new" 2>>"$cache/pip.log"; then
        say "torch without its GPU libraries doesn't work here (see $cache/pip.log); installing it whole, 5 GB"
        rm -rf "$new"
        full_venv "$new" 2>>"$cache/pip.log" || die "the Python environment can't be made (see $cache/pip.log)" \
            "Or name a Python that has what $here/requirements.txt lists: CKPT_TEST_PYTHON=/path/to/python3 make ..."
    fi
    printf '%s\n' "$stamp" >"$new/stamp"
    # Whole or not at all: an interrupted set-up must not look like a finished one.
    rm -rf "$venv"
    mv "$new" "$venv"
}

# Users who are not root mount by fusermount3; fio checks what it reads of a mount; strace shows that a mount's server never looks
# at it; rsync sees no difference. Tests without them say that they are skipped.
need_fuse() {
    local missing=()
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v fio >/dev/null || missing+=(fio)
    command -v strace >/dev/null || missing+=(strace)
    command -v rsync >/dev/null || missing+=(rsync)
    if [ ${#missing[@]} = 0 ] || [ "$(uname -s)" != Linux ]; then return; fi
    apt_install "${missing[@]}" || say "${missing[*]} can't be had: some tests of the mount will be skipped (try: apt-get install ${missing[*]})"
}

need_peers() {
    local stamp have missing=()
    command -v restic >/dev/null || missing+=(restic)
    command -v borg >/dev/null || missing+=(borgbackup)
    if [ ${#missing[@]} != 0 ]; then
        apt_install "${missing[@]}" || die "the benchmarks compare with restic and borg" "Try: apt-get install ${missing[*]}"
    fi
    have=$("$cache/tools/bin/b3sum" --version 2>/dev/null || true)
    if [ "$have" != "b3sum 1.8.7" ]; then
        say "building b3sum 1.8.7 with cargo, to $cache/tools"
        env -u CARGO_TARGET_DIR cargo install -q --locked --version 1.8.7 --root "$cache/tools" b3sum >"$cache/b3sum.log" 2>&1 ||
            die "b3sum can't be built (see $cache/b3sum.log)"
    fi
    stamp=$(stamp_of "$here/requirements-bench.txt")
    if [ -z "$own" ] && [ "$(cat "$venv/stamp-bench" 2>/dev/null)" != "$stamp" ]; then
        say "adding $(grep -v '^#' "$here/requirements-bench.txt" | tr '\n' ' ')to $venv"
        pip_install "$venv" --no-deps -r "$here/requirements-bench.txt" || die "they can't be installed (see $cache/pip.log)"
        printf '%s\n' "$stamp" >"$venv/stamp-bench"
    fi
}

need_fuzz() {
    local have
    have=$("$cache/tools/bin/cargo-fuzz" --version 2>/dev/null || true)
    if [ "$have" != "cargo-fuzz 0.13.2" ]; then
        say "building cargo-fuzz 0.13.2 with cargo, to $cache/tools"
        env -u CARGO_TARGET_DIR cargo install -q --locked --version 0.13.2 --root "$cache/tools" cargo-fuzz >"$cache/cargo-fuzz.log" 2>&1 ||
            die "cargo-fuzz can't be built (see $cache/cargo-fuzz.log)"
    fi
}

write_env() {
    local text=""
    if [ -e "$wheel/done" ]; then
        # The wheel has the library alone, so the compiler's own headers (stddef.h and the like) are taken from gcc.
        text+="export LIBCLANG_PATH=\"\${LIBCLANG_PATH:-$wheel/lib/clang/native}\""$'\n'
        text+="export BINDGEN_EXTRA_CLANG_ARGS=\"\${BINDGEN_EXTRA_CLANG_ARGS:--isystem $(gcc -print-file-name=include)}\""$'\n'
    fi
    text+="export CKPT_TEST_PYTHON=\"\${CKPT_TEST_PYTHON:-$venv/bin/python}\""$'\n'
    text+="export CKPT_TOOLS=\"$cache/tools/bin\""
    if [ "$(cat "$cache/setup.env" 2>/dev/null)" != "$text" ]; then printf '%s\n' "$text" >"$cache/setup.env"; fi
}

mkdir -p "$cache"
# Two makes at once must not install the same thing over each other.
if command -v flock >/dev/null; then
    exec 9>"$cache/setup.lock"
    flock 9
fi
case $want in build | python | bench | fuzz) ;; *) die "usage: setup.sh build|python|bench|fuzz" ;; esac
need_rust
need_compiler
if [ "$want" = fuzz ]; then
    # The rooms that are fuzzed know no RocksDB.
    need_fuzz
else
    need_libclang
fi
if [ "$want" = python ] || [ "$want" = bench ]; then
    need_fuse
    need_venv
fi
if [ "$want" = bench ]; then need_peers; fi
write_env
