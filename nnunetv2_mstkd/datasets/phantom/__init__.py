"""The built-in phantom."""
