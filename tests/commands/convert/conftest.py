"""Small BraTS-like cases on disk, and nnU-Net's folders."""

from small_cases import files, nnunet  # noqa: F401  fixtures
