"""Parts of networks: torch in, torch out; no method, no trainer, no files."""
