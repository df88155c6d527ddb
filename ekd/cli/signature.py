"""The arguments of what a _target_ names, read from its file: torch and Lightning take seconds to import, and a mistake
on the command line is to be answered at once. `ekd.cli.kinds` looks again when all is imported.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

# What is named alike wherever it is imported from. Any other name may mean anything.
KINDS: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "Path": Path, "list": list, "List": list, "tuple": tuple,
    "Tuple": tuple, "dict": dict, "Dict": dict, "Sequence": Sequence, "Iterable": Iterable, "Mapping": Mapping,
    "Union": Union,
}  # fmt: skip


def signature(target: str) -> dict[str, Any]:
    """Argument -> its kind, as `ekd.cli.kinds` has them; Any where the file alone does not tell. Empty where there is
    no such file, or where it does not define the target itself.
    """
    module, _, name = target.rpartition(".")
    for file in _files(module):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                return signature(f"{node.module}.{name}") if node.level == 0 else {}
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                own = {argument: annotated(written) for argument, written in _arguments(node)}
                return (_inherited(module, node) if isinstance(node, ast.ClassDef) and not _init(node) else {}) | own
    return {}


def _inherited(module: str, made: ast.ClassDef) -> dict[str, Any]:
    bases = [base.id for base in made.bases if isinstance(base, ast.Name)]
    return {argument: kind for base in bases for argument, kind in signature(f"{module}.{base}").items()}


def _init(made: ast.ClassDef) -> list[ast.FunctionDef]:
    return [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]


def _files(module: str) -> Iterator[Path]:
    """Where a module's code lies. Of its packages none is imported."""
    top, *inner = module.split(".")
    found = importlib.util.find_spec(top) if top else None
    for folder in (found.submodule_search_locations or []) if found else []:
        place = Path(folder, *inner)
        yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file())


def _arguments(made: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Of a function; of a class those of __init__, or its fields."""
    functions = _init(made) if isinstance(made, ast.ClassDef) else [made]
    for function in functions:
        yield from ((a.arg, a.annotation) for a in [*function.args.args, *function.args.kwonlyargs] if a.annotation)
    for node in made.body if not functions else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def annotated(written: ast.expr) -> Any:
    match written:
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=str(quoted)):
            return annotated(ast.parse(quoted, mode="eval").body)
        case ast.Name(id=name):
            return KINDS.get(name, Any)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[annotated(left), annotated(right)]  # noqa: UP007 (of values)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return Union[annotated(inner), None]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in KINDS:
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return KINDS[name][tuple(map(_part, parts))]
    return Any


def _part(written: ast.expr) -> Any:
    return ... if isinstance(written, ast.Constant) and written.value is ... else annotated(written)
