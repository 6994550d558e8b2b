"""Datasets from raw recordings: the door for `python -m fourstage.prepare`."""

from fourstage.cli.prepare import main

if __name__ == "__main__":
    raise SystemExit(main())
