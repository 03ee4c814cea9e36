"""Writes GGUF files with plain and quantized tensors.

usage: gguf_files.py OUTDIR
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from truth import Path, Truth, entry, main, one_file

QUANTIZED = (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.BF16)
PLAIN = (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64)


def tensors(path: Path) -> list[dict[str, Any]]:
    """Describes a file's tensors as its reader gives them; GGUF lists the fastest dimension first, the truth last."""
    return [
        entry(t.name, t.tensor_type.name, t.shape[::-1].tolist(), t.data.tobytes())
        for t in gguf.GGUFReader(path).tensors
    ]


def save(path: Path, alignment: int | None = None) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_token_list([f"token{i}" for i in range(500)])
    writer.add_array("rates", [0.5, 0.25])
    value = np.random.standard_normal((24, 64)).astype(np.float32)
    for dtype in PLAIN:
        writer.add_tensor(f"plain.{np.dtype(dtype).name}", (value * 30).astype(dtype))
    for kind in QUANTIZED:
        writer.add_tensor(f"blk.0.{kind.name.lower()}.weight", gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(7, np.float32))
    writer.add_tensor("cube", np.arange(2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(out: Path) -> Truth:
    save(out / "model.gguf")
    save(out / "aligned.gguf", 256)
    return [one_file(path, "gguf", tensors(path)) for path in sorted(out.glob("*.gguf"))]


if __name__ == "__main__":
    main(write)
