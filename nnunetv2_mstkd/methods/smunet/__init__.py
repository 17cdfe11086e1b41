"""SMU-Net: network, losses."""
