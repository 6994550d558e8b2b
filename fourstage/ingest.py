"""Old result files as runs: the door for `python -m fourstage.ingest`."""

from fourstage.cli.ingest import main

if __name__ == "__main__":
    raise SystemExit(main())
