"""Measures ZipNN on one thread as store/examples/codec_speed.rs measures ckpt: medians over memory already touched.

usage: zipnn_speed.py FILE f32|bf16        prints one line of JSON: ratio, encode_gb_s, decode_gb_s
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from zipnn import ZipNN

PASSES = 5
raw = Path(sys.argv[1]).read_bytes()
coder = ZipNN(input_format="byte", bytearray_dtype={"f32": "float32", "bf16": "bfloat16"}[sys.argv[2]], threads=1)
encode, decode = [], []
for _ in range(PASSES):
    # ZipNN reorders the bytes of what it is given in place, so each pass gets a fresh copy.
    given = bytearray(raw)
    start = perf_counter()
    stored = coder.compress(given)
    encode.append(perf_counter() - start)
    size, kept = len(stored), bytearray(stored)
    start = perf_counter()
    back = coder.decompress(kept)
    decode.append(perf_counter() - start)
    assert bytes(back) == raw, "ZipNN gave other bytes back"
print(
    json.dumps(
        {
            "ratio": size / len(raw),
            "encode_gb_s": len(raw) / median(encode) / 1e9,
            "decode_gb_s": len(raw) / median(decode) / 1e9,
        }
    )
)
