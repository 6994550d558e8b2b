"""fourstage: where does the time of a multimodal model go, and what changes when you change something?

import fourstage

run = fourstage.run("model=videollava", "temperature=0.2")
run.metrics["total_s.median"], run.valid
"""

from fourstage.api import (
    Comparison,
    MeasurementError,
    Run,
    SampleError,
    UserError,
    compare,
    find,
    run,
    sweep,
)
from fourstage.version import __version__ as __version__

__all__ = ["Comparison", "MeasurementError", "Run", "SampleError", "UserError", "compare", "find", "run", "sweep"]
