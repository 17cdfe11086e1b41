"""Networks as nnU-Net builds them."""

from nnunet_networks import build_network, seed, stock_kwargs  # noqa: F401  fixtures
