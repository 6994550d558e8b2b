"""The stand-ins of weights=demo: the door for `python -m fourstage.train`."""

from fourstage.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
