"""Compare runs: the door for `python -m fourstage.compare`.

`fourstage.compare(…)` is the function of the Python API. Importing this module would put it in the function's place, so
the module can be called too.
"""

import sys

from fourstage import api
from fourstage.cli.compare import main


class _Door(type(sys)):  # type: ignore[misc]
    __call__ = staticmethod(api.compare)


sys.modules[__name__].__class__ = _Door

if __name__ == "__main__":
    raise SystemExit(main())
