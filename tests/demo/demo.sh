#!/usr/bin/env bash
# The main job on real input: a training whose encoder is frozen saves 20 checkpoints, ckpt keeps them all, follows a tensor
# over them, gives them back, and collects by policy. Run by `make demo`, which sets CKPT (the binary) and CKPT_TEST_PYTHON (a Python with torch).
# Works offline, in a temporary directory that it removes; KEEP=1 keeps it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CKPT:?run this with make demo}" "${CKPT_TEST_PYTHON:?run this with make demo}"
steps=500 every=25
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ckpt"
mkdir -p "$cache"
work=$(mktemp -d "$cache/demo.XXXXXX")
leave() {
    if [ "${KEEP:-}" = 1 ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap leave EXIT
trap 'exit 130' INT TERM
cd "$work"
# A store, a progress bar or a GPU of the user's own must not change what the demo shows.
unset CKPT_STORE
PATH="$(dirname "$CKPT"):$PATH"
# OpenMP threads that wait by spinning would slow a busy machine down many times over.
export OMP_WAIT_POLICY=passive
export PATH PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1 CUDA_VISIBLE_DEVICES=""

title() { printf '\n== %s\n' "$*"; }
show() { # a command as a person types it, then what it answers
    local shown
    printf -v shown ' %q' "$@"
    printf '\n$%s\n' "${shown//\\/}"
    "$@"
}
seconds_of() { # runs a command, and keeps in $seconds how long it took
    local start=$EPOCHREALTIME
    "$@"
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
}
disk_bytes() { du -s --block-size=1 --apparent-size .ckpt | cut -f1; }

began=$SECONDS
title "A training with a frozen encoder: $((steps / every)) checkpoints, each put when it is saved"
show ckpt init
"$CKPT_TEST_PYTHON" "$here/train.py" . "$steps" "$every"
after_put=$(disk_bytes)

title "What the store holds"
show ckpt ls demo
show ckpt df

title "One parameter over the run, and what trained"
show ckpt log demo --tensor state_dict.head.0.weight
show ckpt diff "demo@$every" "demo@$steps" --tensors

title "The newest comes back byte for byte, and torch loads it"
seconds_of show ckpt get demo@latest back.ckpt
get_seconds=$seconds
show cmp back.ckpt "step=$steps.ckpt"
echo "identical"
"$CKPT_TEST_PYTHON" "$here/train.py" --check back.ckpt
rm back.ckpt

title "Retention: the last three, the best two, and every hundredth step"
rules=(--run demo --keep-last 3 --keep-best 2 --metric loss --mode min --keep-every 100)
show ckpt gc "${rules[@]}" --dry-run
show ckpt gc "${rules[@]}"
show ckpt ls demo

title "Everything that stayed is sound, and what torch saved"
show ckpt verify
mkdir kept
kept=0
for step in $(seq "$every" "$every" "$steps"); do
    ckpt show "demo@$step" >/dev/null 2>&1 || continue
    ckpt get "demo@$step" kept/ >/dev/null
    kept=$((kept + 1))
    (cd kept && grep -F "  step=$step.ckpt" ../saved.sha256 | sha256sum --check)
    rm "kept/step=$step.ckpt"
done
show ckpt df

title "In numbers"
"$CKPT_TEST_PYTHON" - "$after_put" "$(disk_bytes)" "$kept" "$get_seconds" "$((SECONDS - began))" <<'END'
import json, sys
totals = json.load(open("totals.json"))
after_put, after_gc, kept = (int(a) for a in sys.argv[1:4])
n, written = totals["checkpoints"], totals["torch_bytes"]
for words, figure in (
    (f"{n} checkpoints, as torch.save wrote them", f"{written / 1e6:.1f} MB"),
    (f"all {n} in the store", f"{after_put / 1e6:.1f} MB, {written / after_put:.1f}x smaller"),
    (f"the {kept} that the rules keep, in the store", f"{after_gc / 1e6:.1f} MB"),
    ("torch.save, each", f"{totals['save_seconds'] / n:.2f} s"),
    ("ckpt put, each", f"{totals['put_seconds'] / n:.2f} s"),
    ("ckpt get, the newest", f"{float(sys.argv[4]):.2f} s"),
    ("the whole demo", f"{sys.argv[5]} s"),
):
    print(f"{words:<45}{figure}")
END
