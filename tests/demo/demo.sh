#!/usr/bin/env bash
# The main job on real input: a PyTorch Lightning training whose encoder is frozen saves 20 checkpoints into a store, dies in the middle and
# goes on; ckpt follows a tensor over them, gives them back, and collects by policy. Run by `make demo`, which sets CKPT (the binary),
# CKPT_TEST_PYTHON (a Python with torch and Lightning) and, where ckpt_store is not installed in it, CKPT_PYTHONPATH (where it is).
# Works offline, in a temporary directory that it removes; KEEP=1 keeps it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CKPT:?run this with make demo}" "${CKPT_TEST_PYTHON:?run this with make demo}"
steps=400 every=20 die_at=250
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
if [ -n "${CKPT_PYTHONPATH:-}" ]; then
    export PYTHONPATH="$CKPT_PYTHONPATH${PYTHONPATH:+:$PYTHONPATH}"
fi

title() { printf '\n== %s\n' "$*"; }
show() { # a command as a person types it, then what it answers
    local shown
    printf -v shown ' %q' "$@"
    printf '\n$%s\n' "${shown//\\/}"
    "$@"
}
train() { # the same for the training
    printf '\n$ python train.py %s\n' "$*"
    "$CKPT_TEST_PYTHON" "$here/train.py" "$@"
}
seconds_of() { # runs a command, and keeps in $seconds how long it took
    local start=$EPOCHREALTIME
    "$@"
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
}
disk_bytes() { du -s --block-size=1 --apparent-size "$1" | cut -f1; }

began=$SECONDS
title "A Lightning training with a frozen encoder, validated and saved every $every steps. What changes is one line"
grep --color=never -n 'StoreCheckpointIO(' "$here/train.py"
killed=0
train train "$steps" "$every" --die-at "$die_at" 2>train.err || killed=$?
if [ "$killed" != 137 ]; then
    cat train.err >&2
    echo "the training was to be killed, and ended with $killed" >&2
    exit 1
fi
echo "killed by kill -9 after step $die_at"
train train "$steps" "$every" --resume demo@latest
after_save=$(disk_bytes .ckpt)

title "What ModelCheckpoint finds where it saves, and what the store holds"
printf '\n$ ls -lh checkpoints | tail -3\n'
ls -lh checkpoints | tail -3
show ckpt ls demo
show ckpt df

title "One parameter over the run, and what trained"
show ckpt log demo --tensor state_dict.head.0.weight
# Its columns are as wide as the longest name, which is one of ModelCheckpoint's.
only="ckpt diff demo@$every demo@$steps --tensors | grep -E '^(state_dict|tensors:)' | sed -E 's/ {20,}/  /'"
printf '\n$ %s\n' "$only"
eval "$only"

title "The newest comes back as a file that needs no store"
seconds_of show ckpt get demo@latest back.ckpt
get_seconds=$seconds
"$CKPT_TEST_PYTHON" "$here/train.py" check back.ckpt
rm back.ckpt

title "A policy: the last three, the best two, and every hundredth step"
show ckpt policy set demo --keep-last 3 --keep-best 2 --metric val_loss --mode min --keep-every 100
show ckpt gc --dry-run
show ckpt gc
show ckpt ls demo

title "Everything that stayed is sound, and what was saved"
show ckpt verify
mkdir kept
kept=0
for step in $(seq "$every" "$every" "$steps"); do
    ckpt show "demo@$step" >/dev/null 2>&1 || continue
    ckpt get "demo@$step" kept/ >/dev/null
    kept=$((kept + 1))
done
"$CKPT_TEST_PYTHON" "$here/train.py" check kept/*
show ckpt df

title "In numbers"
"$CKPT_TEST_PYTHON" - "$after_save" "$(disk_bytes .ckpt)" "$kept" "$get_seconds" "$((SECONDS - began))" <<'PY'
import json, sys
saved = [json.loads(line) for line in open("saved.jsonl")]
after_save, after_gc, kept = (int(a) for a in sys.argv[1:4])
n, written = len(saved), sum(one["torch_bytes"] for one in saved)
ours, torchs = (sum(one[key] for one in saved) for key in ("seconds", "torch_seconds"))
for words, figure in (
    (f"{n} checkpoints, as ModelCheckpoint alone writes them", f"{written / 1e6:.1f} MB"),
    (f"all {n} in the store", f"{after_save / 1e6:.1f} MB, {written / after_save:.1f}x smaller"),
    (f"the {kept} that the policy keeps, in the store", f"{after_gc / 1e6:.1f} MB"),
    ("time spent saving, by ModelCheckpoint alone", f"{torchs:.2f} s"),
    ("the same, into the store, each of them durable", f"{ours:.2f} s"),
    ("ckpt get, the newest", f"{float(sys.argv[4]):.2f} s"),
    ("the whole demo", f"{sys.argv[5]} s"),
):
    print(f"{words:<56}{figure}")
PY
