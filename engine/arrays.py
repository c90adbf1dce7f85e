"""The type of the arrays that solvers and networks exchange."""

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
