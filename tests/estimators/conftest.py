"""What the tests of the estimators share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="session")
def cube() -> NDArray[np.float64]:
    """A small image: 3 bands of 40 × 50 pixels, two kinds of ground."""
    rng = np.random.default_rng(0)
    kind = (np.arange(40)[:, None] + np.arange(50) > 45).astype(int)
    centres = np.array([[0.0, 4.0], [1.0, -2.0], [0.0, 1.0]])
    return centres[:, kind] + rng.normal(size=(3, 40, 50))
