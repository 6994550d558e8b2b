"""Compare runs: the door for `python -m fourstage.compare`."""

from fourstage.cli.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
