#!/usr/bin/env bash
# Runs the fuzz targets one after the other, each for a bounded time and in bounded memory, and says what each found.
# usage: run.sh SECONDS [TARGET...]        (make fuzz calls it; tests/setup/setup.sh has brought cargo-fuzz)
#
# What fails is kept in artifacts/TARGET/; `cargo fuzz run TARGET artifacts/TARGET/FILE` runs it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=$1
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' Cargo.toml); fi

# The sanitizer's switch is not stable in the compiler; the compiler itself is.
export RUSTC_BOOTSTRAP=1
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-../target}")/fuzz
export CARGO_TARGET_DIR
cargo_fuzz=("${CKPT_TOOLS:?run it by make fuzz}/cargo-fuzz" fuzz)

cargo run -q --release --locked --example seeds
"${cargo_fuzz[@]}" build

# One allocation, everything together, one run: what a hostile input of this length may cost. The sanitizer's own books are
# in the second.
limits=(-malloc_limit_mb=64 -rss_limit_mb=1200 -timeout=20 -max_len=65536 -len_control=50)
failed=()
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" artifacts
    log="artifacts/$target.log"
    if ! "${cargo_fuzz[@]}" run "$target" -- "${limits[@]}" -max_total_time="$seconds" -print_final_stats=1 >"$log" 2>&1; then
        failed+=("$target")
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    reached=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1 || true)
    printf '%-18s %10s runs  %-22s peak %s MB\n' "$target" "${runs:-0}" "${reached:-cov: 0}" "${peak:-?}"
done
if [ ${#failed[@]} != 0 ]; then
    printf 'failed: %s (see fuzz/artifacts)\n' "${failed[*]}" >&2
    exit 1
fi
