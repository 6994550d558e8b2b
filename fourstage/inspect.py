"""What flows between the stages: the door for `python -m fourstage.inspect`."""

from fourstage.cli.inspect import main

if __name__ == "__main__":
    raise SystemExit(main())
