"""One run or a sweep: the door for `python -m fourstage.run`."""

from fourstage.cli.run import main

if __name__ == "__main__":
    raise SystemExit(main())
