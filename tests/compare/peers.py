"""How each tool under test is called: ckpt, and the peers it is compared with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from measure import Command, output


def ckpt_put(binary: Path, store: Path, file: Path, run: str = "bench") -> Command:
    """Stores the same file as another checkpoint each time."""

    def arguments(n: int) -> list[str]:
        return [str(binary), "put", str(file), "--run", run, "--step", str(n)]

    return Command("ckpt put", arguments, {"CKPT_STORE": str(store)})


def ckpt_put_each(binary: Path, store: Path, files: list[Path]) -> Command:
    """Stores another file each time, its step read from its name."""
    return Command(
        "ckpt put", lambda n: [str(binary), "put", str(files[n]), "--run", "bench"], {"CKPT_STORE": str(store)}
    )


def ckpt_get(binary: Path, store: Path, ref: str, to: Path) -> Command:
    return Command("ckpt get", lambda _n: [str(binary), "get", ref, str(to)], {"CKPT_STORE": str(store)}, removing(to))


def ckpt_any(ckpt: Path, store: Path, arguments: list[str]) -> Command:
    return Command(f"ckpt {' '.join(arguments)}", lambda _run: [str(ckpt), *arguments], {"CKPT_STORE": str(store)})


def ckpt_ls(binary: Path, store: Path, name: str, more: list[str]) -> Command:
    return Command(name, lambda _n: [str(binary), "ls", *more], {"CKPT_STORE": str(store)})


def ckpt_init(binary: Path, store: Path) -> None:
    output(binary, "init", env={"CKPT_STORE": str(store)})


def b3sum(file: Path) -> Command:
    tool = Path(os.environ["CKPT_TOOLS"], "b3sum")
    return Command("b3sum", lambda _n: [str(tool), "--num-threads", "2", str(file)])


def cp(file: Path, to: Path) -> Command:
    return Command("cp", lambda _n: ["cp", str(file), str(to)], before=removing(to))


def cp_durable(file: Path, to: Path) -> Command:
    """cp, and then fsync of what it wrote, which is what `ckpt get` promises."""
    return Command(
        "cp + fsync",
        lambda _n: ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(file), str(to)],
        before=removing(to),
    )


def removing(path: Path) -> Callable[[int], None]:
    """Removes what the last run wrote, and lets the disk finish, so that no run pays for another."""

    def before(_number: int) -> None:
        path.unlink(missing_ok=True)
        os.sync()

    return before


class Restic:
    """restic with a repository of its own. --force, because a training writes a new file each time: nothing can be
    skipped by its date."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "restic"
        self.env = {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
        }
        output("restic", "init", "-q", env=self.env)

    def backup(self, *files: Path) -> Command:
        def arguments(n: int) -> list[str]:
            return ["restic", "backup", "-q", "--force", str(files[n % len(files)])]

        return Command("restic backup", arguments, self.env)


class Borg:
    """borg without encryption, zstd level 1. The files cache is off for the same reason as restic's --force."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "borg"
        self.env = {
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(folder / "borg-home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        output("borg", "init", "-e", "none", env=self.env)

    def create(self, *files: Path) -> Command:
        def arguments(n: int) -> list[str]:
            options = ["--compression", "zstd,1", "--files-cache", "disabled"]
            return ["borg", "create", *options, f"::{n}", str(files[n % len(files)])]

        return Command("borg create", arguments, self.env)


def versions() -> str:
    """Returns the versions of the peers, in words."""
    said = {
        "restic": output("restic", "version"),
        "borg": output("borg", "--version"),
        "b3sum": output(Path(os.environ["CKPT_TOOLS"], "b3sum"), "--version"),
        "coreutils": output("cp", "--version"),
        "ZipNN": (Path(__file__).parent.parent / "setup" / "requirements-bench.txt").read_text(),
    }
    number = re.compile(r"\d+(\.\d+)+")
    return ", ".join(f"{name} {found.group()}" for name, text in said.items() if (found := number.search(text)))
