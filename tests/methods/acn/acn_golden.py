"""Golden numbers of ACN's released code: github.com/Wangyixinxin/ACN, commit 0643c57 (no licence)."""

from residual_golden import ResidualGolden

_GOLDEN = ResidualGolden("acn")
SHAPES, NETWORK, LOSSES = _GOLDEN.shapes, _GOLDEN.network, _GOLDEN.losses
assert_same, labels, normal, weights = _GOLDEN.assert_same, _GOLDEN.labels, _GOLDEN.normal, _GOLDEN.weights
