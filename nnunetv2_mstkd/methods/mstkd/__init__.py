"""MST-KDNet: network, objective, trainers."""
