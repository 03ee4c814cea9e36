"""Makes PyPI's torch for Linux load without NVIDIA's libraries, 3 GB that a machine without a GPU never calls.

usage: cpu_torch.py SITE_PACKAGES

The wheel is linked against cuBLAS, cuDNN, NCCL and others, so the dynamic loader insists on finding each of them. This
writes a stand-in of a few kB for each into torch's own library folder: it has the names and versions that torch links
against, and every function in it answers with an error code. The small CUDA runtime stays the real one, because torch
calls it while loading. `setup.sh` then checks that torch trains, and installs the real libraries if it doesn't.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

NVIDIA = re.compile(r"lib(cu|nv|nccl)\w*\.so\.\d+")
# The runtime and its tracer come from their own small wheels. The driver (libcuda) belongs to the machine.
REAL = re.compile(r"lib(cudart|cupti|cuda)\.so")


def output(*command: str) -> str:
    """Returns what a command prints, in plain English whatever the user's language."""
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    ).stdout


def missing_libraries(libraries: list[Path]) -> set[str]:
    """Returns the names of NVIDIA's libraries that torch's own libraries ask for."""
    names = set()
    for library in libraries:
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "-dW", str(library)))
        names |= {n for n in needed if NVIDIA.fullmatch(n) and not REAL.match(n)}
    return names


def version_nodes(libraries: list[Path]) -> dict[str, str]:
    """Maps each library's name to the symbol version that torch expects in it, for those that have one."""
    nodes: dict[str, str] = {}
    for library in libraries:
        text = output("readelf", "-VW", str(library))
        nodes |= dict(re.findall(r"File: (\S+)\s+Cnt: \d+\n\s+\S+\s+Name: (\S+)", text))
    return nodes


def undefined_symbols(libraries: list[Path]) -> dict[str, set[str]]:
    """Maps each symbol version ('' for none) to the undefined symbols that carry it."""
    wanted, defined = defaultdict(set), set()
    for library in libraries:
        for line in output("nm", "-D", str(library)).splitlines():
            kind, symbol = line[17:].split(" ", 1)
            name, _, version = symbol.partition("@")
            if kind == "U":
                wanted[version.lstrip("@")].add(name)
            else:
                defined.add(name)
    wanted[""] -= defined
    return wanted


def write_stand_in(folder: Path, library: str, symbols: set[str], version: str | None) -> None:
    """Compiles one stand-in library; every function in it returns 1, a failure in all of NVIDIA's libraries."""
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "stand_in.c"), Path(scratch, "versions")
        source.write_text("".join(f"int {s}(void) {{ return 1; }}\n" for s in sorted(symbols)))
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-fno-builtin",
            "-w",
            f"-Wl,-soname,{library}",
            "-o",
            str(folder / library),
            str(source),
        ]
        if version:
            script.write_text(f"{version} {{ global: *; }};\n")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main(site_packages: Path) -> None:
    folder = site_packages / "torch" / "lib"
    libraries = sorted(folder.glob("libtorch*.so")) + sorted(folder.glob("libc10*.so"))
    missing = missing_libraries(libraries)
    nodes, symbols = version_nodes(libraries), undefined_symbols(libraries)
    for library in sorted(missing):
        stem = library.split(".")[0].removeprefix("lib").split("_")[0]
        version = nodes.get(library)
        # Symbols without a version are told apart by their prefix, as in ncclAllReduce and libnccl.
        names = symbols[version] if version else {s for s in symbols[""] if s.lower().startswith(stem.lower())}
        write_stand_in(folder, library, names, version)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
