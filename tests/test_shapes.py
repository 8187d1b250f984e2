"""Shapes of arrays are checked in tests, and cost nothing elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

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
