"""Golden numbers of SMU-Net's released code: github.com/rezazad68/smunet, commit 251f3ad (MIT)."""

from residual_golden import ResidualGolden

_GOLDEN = ResidualGolden("smunet")
SHAPES, NETWORK, LOSSES = _GOLDEN.shapes, _GOLDEN.network, _GOLDEN.losses
assert_same, labels, normal, weights = _GOLDEN.assert_same, _GOLDEN.labels, _GOLDEN.normal, _GOLDEN.weights
