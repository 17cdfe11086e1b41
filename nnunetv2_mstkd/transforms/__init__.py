"""batchgeneratorsv2 transforms."""
