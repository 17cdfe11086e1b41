"""ACN: network, discriminators, losses."""
