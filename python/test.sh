#!/usr/bin/env bash
# Tests the Python package as it was installed from its wheel, and checks its types and how the examples use them.
# usage: test.sh SITE [pytest's own arguments]    SITE: where wheel.sh installed it. CKPT_TEST_PYTHON: a Python with the frameworks
set -euo pipefail
: "${CKPT_TEST_PYTHON:?run this with make test}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
site=$1
shift
# Outside the sources, so that the package that is tested is the installed one.
cd "$site"
# A store or a progress bar of the user's own must not change a test, nor a hub that can't be reached delay one.
unset CKPT_STORE
export PYTHONPATH="$site" PATH="$site/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-}"
export HF_HUB_OFFLINE=1 KERAS_BACKEND=torch JAX_PLATFORMS=cpu TOKENIZERS_PARALLELISM=false
if [ $# = 0 ]; then
    types=("$CKPT_TEST_PYTHON" -m mypy --no-error-summary --cache-dir=/dev/null --config-file "$here/pyproject.toml")
    "${types[@]}" --strict -p ckpt_store
    # The core has no types of its own: what the stub says of it is compared with what is there.
    MYPY_CACHE_DIR=/dev/null "$CKPT_TEST_PYTHON" -m mypy.stubtest --concise \
        --mypy-config-file "$here/pyproject.toml" ckpt_store._core
    # The examples use the package as its types say, and have few of their own.
    "${types[@]}" --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-subclassing-any \
        --no-warn-unused-ignores "$here"/../examples/*.py
    set -- "$here/tests"
fi
exec "$CKPT_TEST_PYTHON" -m pytest -q -p no:cacheprovider -c "$here/pyproject.toml" --rootdir "$here" "$@"
