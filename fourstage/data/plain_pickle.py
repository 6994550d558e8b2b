"""Pickles of plain data: dictionaries, lists, scalars and numpy arrays, built without running anything.

A pickle is a program. This reads its opcodes one by one and carries out only those that put data together, so that
nothing in a file is ever called or imported; the few names that a saved array needs are answered by stand-ins. What
Python's unpickler does to nested, repeated or counted objects (crash, fill memory) cannot happen: keys that are not
text are dropped instead of hashed, and opcodes and bytes are counted. Left out: objects of classes, and pickle
protocol 5's buffers.

    saved = read_plain_pickle(file, path, max_bytes)  # {"x": PlainArray, …}
    saved["x"].array()
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fourstage.data.files import shown
from fourstage.data.limits import check_decoded_bytes
from fourstage.stages import SampleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_OPCODES = 200_000  # a clip has about 200
MAX_MEMO = MAX_OPCODES  # the highest number under which a pickle may store an object
MAX_DEPTH = 100  # tuples in tuples

_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (core, name) for core in _CORES for name in ("_reconstruct", "scalar")
}
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
          "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}  # fmt: skip


class PlainArray:
    """Stands in for a numpy array: its shape, dtype and bytes; a list of objects where the dtype is object."""

    shape: Any = ()
    dtype: Any = None
    fortran: Any = False
    data: Any = b""

    def array(self) -> NDArray[Any]:
        """The numpy array [shape], a view of the bytes. Raises ValueError where these are no array of numbers."""
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.data, bytes | str):
            raise ValueError("an array of objects")
        if not isinstance(self.shape, tuple) or not all(isinstance(size, int) for size in self.shape):
            raise ValueError("a shape that is no tuple of whole numbers")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        values: NDArray[Any] = np.frombuffer(data, dtype=self.dtype.numpy())
        return values.reshape(self.shape, order="F" if self.fortran else "C")


def read_plain_pickle(file: IO[bytes], path: Path, max_bytes: int) -> Any:
    """What the pickle at the file's position holds, arrays as PlainArray.

    Raises SampleError naming `path`: damaged, nested too deep, more than `max_bytes` or MAX_OPCODES, or anything in it
    that is not plain data.
    """
    try:
        return _Machine(path, max_bytes).run(file)
    except (SampleError, OSError):
        raise
    except _ForbiddenError as refused:
        raise SampleError(
            f"{path} wants to {refused}, and only arrays, dtypes and scalars are admitted; nothing of it was "
            "run; re-export it as a plain dictionary of arrays"
        ) from refused
    except Exception as error:  # a damaged pickle raises whatever it happens to hit (docs of pickle.UnpicklingError)
        reason = str(error) or type(error).__name__
        raise SampleError(f"{path} holds a truncated or damaged pickle ({shown(reason)}); copy it again") from error


class _ForbiddenError(Exception):
    """A pickle asked for something that no saved array needs."""


class _Name:
    """A function or class that a pickle names, never looked up."""

    def __init__(self, module: str, name: str) -> None:
        if (module, name) not in _ADMITTED:
            raise _ForbiddenError(f"import {shown(module)}.{shown(name)}")
        self.name = name


class _Dtype:
    """Stands in for a numpy dtype: a code such as "u2", and a byte order."""

    def __init__(self, code: Any) -> None:
        self.code = code
        self.order: Any = "="

    def numpy(self) -> np.dtype[Any]:
        written = f"{self.order}{self.code}" if isinstance(self.order, str) and isinstance(self.code, str) else ""
        if not re.fullmatch(r"[<>|=][A-Za-z][0-9]{1,2}", written) or self.code[0] == "O":
            raise ValueError(f"dtype {written[:40]}")
        return np.dtype(written)


class _Reader(NamedTuple):
    """Of a file what pickletools needs, without `tell`, which it would call for each opcode."""

    read: Callable[[int], bytes]
    readline: Callable[[], bytes]


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.bytes = 0  # of the values so far
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.depths: dict[int, int] = {}  # of each tuple, by its id: set when it is made

    def run(self, file: IO[bytes]) -> Any:
        push = self.stack.append
        source = cast("IO[bytes]", _Reader(file.read, file.readline))
        for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
            if count == MAX_OPCODES:
                raise SampleError(f"{self.path} holds a pickle of more than {MAX_OPCODES} steps; re-export it")
            name = opcode.name
            if name in _NUMBERS:
                push(argument)
            elif name in _TEXTS:
                self.bytes += sys.getsizeof(argument)
                check_decoded_bytes(self.path, self.bytes, self.max_bytes)
                push(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name in _CONSTANTS:
                push(_CONSTANTS[name])
            elif name in _EMPTY:
                push(_EMPTY[name]())
            elif name == "STOP":
                return self.stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise _ForbiddenError(f"build an object ({name})")
        raise ValueError("no end")

    def _taken(self, count: int) -> list[Any]:
        """The last `count` values, taken off the stack."""
        if count > len(self.stack):
            raise ValueError("too few values")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _marked(self) -> list[Any]:
        """The values behind the last mark, taken off the stack with it."""
        for count, value in enumerate(reversed(self.stack)):
            if value is _MARK:
                values = self._taken(count)
                self.stack.pop()
                return values
        raise ValueError("no mark")

    def _tuple(self, values: list[Any]) -> None:
        made = tuple(values)
        depth = 1
        for value in made:
            if type(value) is tuple:
                depth = max(depth, 1 + self.depths[id(value)])
        if depth > MAX_DEPTH:
            raise SampleError(f"{self.path} holds a pickle that is nested too deep, at most {MAX_DEPTH} are read")
        self.depths[id(made)] = depth
        self.stack.append(made)

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("an item outside a list")
        self.stack[-1].extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("an item outside a dictionary")
        # to hash a key that is no text can crash, or take hours: and none of the fields has one
        target.update((key, value) for key, value in zip(values[::2], values[1::2], strict=True) if type(key) is str)

    def _dict(self) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    def _put(self, index: int) -> None:
        if not 0 <= index <= MAX_MEMO:
            number = shown(f"{index}")
            raise SampleError(f"{self.path} holds a pickle that stores object {number}, at most {MAX_MEMO} are read")
        self.memo[index] = self.stack[-1]

    def _global(self, written: str) -> None:
        module, _, name = written.partition(" ")
        self.stack.append(_Name(module, name))

    def _stack_global(self) -> None:
        module, name = self._taken(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        self.stack.append(_Name(module, name))

    def _reduce(self) -> None:
        called, given = self._taken(2)
        if not isinstance(called, _Name) or not isinstance(given, tuple):
            raise ValueError("a call of no function")
        if called.name == "_reconstruct":
            self.stack.append(PlainArray())
        elif called.name == "dtype":
            self.stack.append(_Dtype(given[0]))
        elif called.name == "encode":  # bytes, as pickle protocols 0 to 2 write them
            text, encoding = given
            if encoding != "latin1" or not isinstance(text, str):
                raise _ForbiddenError(f"import _codecs.encode with {shown(str(encoding))!r}")
            self.stack.append(text)  # an array encodes its own: a pickle can ask for any number of copies
        elif called.name == "scalar":
            self.stack.append(None)  # further fields only, and they are ignored
        else:
            raise ValueError(f"a call of {called.name}")

    def _build(self) -> None:
        (state,) = self._taken(1)
        made = self.stack[-1]
        if not isinstance(state, tuple):
            raise ValueError("a state that is no tuple")
        if isinstance(made, PlainArray):
            _, made.shape, made.dtype, made.fortran, made.data = state
        elif isinstance(made, _Dtype):
            made.order = state[1]
        else:
            raise ValueError("a state of no array")


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "EMPTY_TUPLE": lambda machine, _: machine._tuple([]),
    "TUPLE1": lambda machine, _: machine._tuple(machine._taken(1)),
    "TUPLE2": lambda machine, _: machine._tuple(machine._taken(2)),
    "TUPLE3": lambda machine, _: machine._tuple(machine._taken(3)),
    "TUPLE": lambda machine, _: machine._tuple(machine._marked()),
    "FROZENSET": lambda machine, _: machine._tuple(machine._marked()),
    "LIST": lambda machine, _: machine.stack.append(machine._marked()),
    "DICT": lambda machine, _: machine._dict(),
    "APPEND": lambda machine, _: machine._extend(machine._taken(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._marked()),
    "SETITEM": lambda machine, _: machine._set(machine._taken(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._marked()),
    "POP": lambda machine, _: machine._taken(1),
    "POP_MARK": lambda machine, _: machine._marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PUT": lambda machine, index: machine._put(index),
    "BINPUT": lambda machine, index: machine._put(index),
    "LONG_BINPUT": lambda machine, index: machine._put(index),
    "MEMOIZE": lambda machine, _: machine._put(len(machine.memo)),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, written: machine._global(written),
    "STACK_GLOBAL": lambda machine, _: machine._stack_global(),
    "REDUCE": lambda machine, _: machine._reduce(),
    "BUILD": lambda machine, _: machine._build(),
}
