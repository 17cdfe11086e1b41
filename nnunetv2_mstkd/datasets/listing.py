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


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """Every file below a folder, by path, without hidden ones. Linked folders are entered, circles are not.

    Args:
        above: real folders that this one lies in.

    Raises:
        MSTKDError: a folder cannot be listed.
    """
    above |= {folder.resolve()}
    found = []
    for path in entries(folder):
        if not path.is_dir():
            found.append(path)
        elif path.resolve() not in above:
            found += files_below(path, above)
    return found
