"""The commands: one module each, with `main(argv)` that gives the exit code."""
