"""The sources keep to what every module here keeps to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[1]
PACKAGE = sorted((PYTHON / "ckpt_store").rglob("*.py"))
OTHERS = sorted([*(PYTHON / "tests").glob("*.py"), *(PYTHON.parent / "examples").glob("*.py")])


@pytest.mark.parametrize("source", PACKAGE + OTHERS, ids=lambda source: source.name)
def test_a_source_is_tidy(source: Path) -> None:
    text = source.read_text()
    told = ast.get_docstring(ast.parse(text))
    assert told and text.startswith(('"""', "#!")), "the first line says what the file is"
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= 120, f"line {number} has {len(line)} columns"
        assert line == line.rstrip(), f"line {number} ends in spaces"
    assert text.count("\n") <= 400
    if source in PACKAGE:
        assert "ever " in told or source.name == "__init__.py", "and what it never does"
        assert "print(" not in text, "what there is to say goes to the logger"
