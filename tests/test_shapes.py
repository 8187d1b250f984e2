"""Shapes of arrays are checked in tests, and cost nothing elsewhere."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

import context_as_memory
from context_as_memory import shapes
from context_as_memory.camera import coordinates
from context_as_memory.diffusion import add_noise


def test_a_wrong_shape_fails_in_every_test():
    basis = np.eye(3)[:2]
    assert coordinates(np.ones((5, 3)), basis).shape == (5, 2)
    with pytest.raises(TypeCheckError, match="vectors"):
        coordinates(np.ones((5, 2)), basis)
    with pytest.raises(TypeCheckError, match="sigma"):  # one level for each of two entries
        add_noise(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3))


def test_elsewhere_annotations_are_bare_arrays_and_nothing_is_imported():
    code = (
        "import sys\n"
        "from context_as_memory.camera import coordinates\n"
        "from context_as_memory.tokens import CameraTensors\n"
        "print(coordinates.__annotations__['vectors'].__name__, CameraTensors.__annotations__['c2w'].__name__)\n"
        "print('jaxtyping' in sys.modules, hasattr(coordinates, '__wrapped__'))\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ndarray", "Tensor", "False", "False"]


# -- every public function says the shapes of its arrays, in its types or in its sentences -----------------------------

STATED = re.compile(r"\[[A-Za-z0-9_ ,.+*/()-]*\]")  # [N, 3], [], [...] for any


def _is_bare(annotation: ast.AST | None) -> bool:
    """Whether a type names an array without its shape."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") in shapes.__all__:
        return False
    name = getattr(annotation, "id", getattr(annotation, "attr", ""))
    return name in ("Tensor", "ndarray") or any(map(_is_bare, ast.iter_child_nodes(annotation or ast.Pass())))


def _unstated(code: str) -> Iterator[str]:
    """Public functions and methods that take or return arrays whose shapes stand nowhere."""
    for owner in ast.walk(ast.parse(code)):
        if not isinstance(owner, ast.Module | ast.ClassDef) or getattr(owner, "name", "").startswith("_"):
            continue
        of_class = ast.get_docstring(owner) or ""
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name in ("__init__", "__call__")):
                arguments = [one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)]
                told = (ast.get_docstring(node) or "") + (of_class if node.name.startswith("__") else "")
                if any(map(_is_bare, [*arguments, node.returns])) and not STATED.search(told):
                    yield node.name


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(x: Tensor): ...", ["f"]),
        ("def f(x: int) -> dict[str, np.ndarray] | None: ...", ["f"]),
        ("def f(x: 'Sequence[torch.Tensor]'): 'Shapes of x.'", ["f"]),
        ("def f(x: Tensor): 'Points [N, 3].'", []),
        ("def f(x: Float[Tensor, 'n 3']): ...", []),
        ("def _f(x: Tensor): ...", []),
        ("class A:\n def g(self, *, x: Tensor): ...", ["g"]),
        ("class A:\n 'x: [N].'\n def __init__(self, x: Tensor): ...\n def g(self) -> Tensor: ...", ["g"]),
        ("class _A:\n def g(self, x: Tensor): ...", []),
    ],
)
def test_arrays_without_shapes_are_found(code, found):
    assert list(_unstated(code)) == found


def test_public_functions_state_the_shapes_of_their_arrays():
    package = Path(context_as_memory.__file__).parent
    files = {path: list(_unstated(path.read_text(encoding="utf-8"))) for path in package.rglob("*.py")}
    assert {str(path.relative_to(package)): names for path, names in files.items() if names} == {}
