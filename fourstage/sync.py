"""Deliver what the store did not take: the door for `python -m fourstage.sync`."""

from fourstage.cli.sync import main

if __name__ == "__main__":
    raise SystemExit(main())
