"""What is in a folder that users have filled."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files (archives made on a Mac are full of them).

    Raises:
        MSTKDError: it cannot be listed, for want of permission for example.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise MSTKDError(f"cannot list {folder}: {error.strerror or error}") from None
