"""One module per sub-command, each with ``run(argv)``."""
