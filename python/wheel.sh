#!/usr/bin/env bash
# Builds the wheel, with the command `ckpt` in it, and installs it for the tests and the demo.
# usage: wheel.sh TARGET SITE    TARGET: cargo's target directory, where `cargo build --release --workspace` has built everything;
#                                SITE: the directory to install into, replaced as a whole. CKPT_TEST_PYTHON: a Python with maturin
set -euo pipefail
: "${CKPT_TEST_PYTHON:?run this with make wheel}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$1 site=$2
wheels="$target/wheels"

scripts="$here/data/scripts"
mkdir -p "$scripts" "$wheels"
# The wheel's own copy, without what only a debugger reads.
strip -o "$scripts/ckpt" "$target/release/ckpt"
rm -f "$wheels"/*.whl
if ! CARGO_TARGET_DIR="$target" "$CKPT_TEST_PYTHON" -m maturin build --release --locked --manifest-path "$here/Cargo.toml" \
    --out "$wheels" >"$wheels/maturin.log" 2>&1; then
    cat "$wheels/maturin.log" >&2
    exit 1
fi
rm -rf "$site.new"
"$CKPT_TEST_PYTHON" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile --target "$site.new" "$wheels"/*.whl
rm -rf "$site"
mv "$site.new" "$site"
echo "built $(echo "$wheels"/*.whl)" >&2
