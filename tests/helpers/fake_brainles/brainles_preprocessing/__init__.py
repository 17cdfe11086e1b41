"""Stands in for brainles-preprocessing: its signatures (a test compares them); it copies files."""
