"""What a checkpoint from elsewhere could hold: something that acts when it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))
