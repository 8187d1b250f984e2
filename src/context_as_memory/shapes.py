"""Arrays with their shapes, as types: `Float[np.ndarray, "n 4 4"]` or `UInt8[np.ndarray, "t H W 3"]`.

Type checkers and tests see the types of jaxtyping, and tests check them at every call of the method. Elsewhere they are
the bare array types, because importing jaxtyping costs as much as importing NumPy (0.1 s). Names in capitals and small
letters differ: `H W` are pixels, `h w` latents. A single name begins with a blank, for linters.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Complex, Float, Float32, Float64, Int, Int64, UInt8, UInt64
else:

    class _Bare:
        def __getitem__(self, array_and_shape: tuple[Any, str]) -> Any:
            return array_and_shape[0]

    Bool = Complex = Float = Float32 = Float64 = Int = Int64 = UInt8 = UInt64 = _Bare()

__all__ = ["Bool", "Complex", "Float", "Float32", "Float64", "Int", "Int64", "UInt8", "UInt64"]
