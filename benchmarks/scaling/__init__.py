"""How the cost of a training step of MSTKDNet grows, and where attention starts to matter."""
