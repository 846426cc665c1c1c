from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.object_store import object_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["object_store"]


@pytest.fixture
def cube() -> NDArray[np.float64]:
    """Values (13, 5, 9), all different and none of them zero."""
    return np.arange(1, 13 * 5 * 9 + 1, dtype=np.float64).reshape(13, 5, 9)
