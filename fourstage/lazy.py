"""Heavy modules, imported at the first use of one of their names.

The file of a model, a dataset format or an engine is imported to learn its settings: for `--help`, completion and
the check of a command line. Whatever it needs beyond that, it takes from here.

    torch = lazy("torch")
    transformers = lazy("transformers", "LlavaForConditionalGeneration")   # names that take time to import
    torch.inference_mode()                                                 # imports torch
    resolve(module)                                                        # imports everything that it took from here
"""

from __future__ import annotations

import logging
from importlib import import_module
from types import ModuleType
from typing import Any

# transformers imports torchao where it is installed, which warns of its own libraries for other CUDA versions
QUIET = ("torchao", "torch.utils._pytree")


class LazyModule:
    """A module that is imported at the first use of one of its names."""

    def __init__(self, name: str, needed: tuple[str, ...]):
        self._name, self._needed = name, needed
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspection by copy, pickle or doctest imports nothing
            raise AttributeError(name)
        if self._module is None:
            self._module = _import(self._name)
        return getattr(self._module, name)

    def __repr__(self) -> str:
        return f"lazy({self._name!r})"

    def resolve(self) -> ModuleType:
        """The module itself, imported with the names that were listed with it."""
        module = _import(self._name)
        for name in self._needed:
            getattr(module, name)
        return module


def _import(name: str) -> ModuleType:
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.ERROR)
    return import_module(name)


def lazy(name: str, *needed: str) -> Any:
    """The module `name`, imported at its first use. `needed`: names that the module imports lazily itself."""
    return LazyModule(name, needed)


def resolve(module: ModuleType) -> None:
    """Import all that `module` took by `lazy`, and let it use the modules themselves from now on.

    Called before a measurement, which must contain neither an import nor the half microsecond of a lazy look-up.
    """
    for name, value in list(vars(module).items()):
        if isinstance(value, LazyModule):
            setattr(module, name, value.resolve())
