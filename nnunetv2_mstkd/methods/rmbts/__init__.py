"""RMBTS: feature disentanglement and gated fusion (Chen et al., MICCAI 2019)."""
