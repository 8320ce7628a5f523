r"""Feature extractors from a user's own file or module: FILE.py:NAME and package.module:NAME.

The code is the user's and is run. What it raises while it is imported or called becomes one sentence that names the
file and the line; the exception itself stays the cause of the error.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ...common.errors import RestartError, RestartTypeError, RestartValueError
from ...common.files import file_sha256

# All exceptions are caught, because a user's code may raise any; KeyboardInterrupt and SystemExit are none of them.
RAISED = (Exception,)


def load(text: str) -> tuple[nn.Module, str]:
    """Return the module that FILE.py:NAME or package.module:NAME makes, and its name in rows.

    NAME is a class or function without arguments. Modules are looked for in the current folder too, and a file may
    import its neighbours. The name of a file's extractor ends with 12 digits of the file's SHA-256, so that rows of
    another version are other rows. Raises RestartValueError or RestartTypeError.
    """
    found, name = made(text, "features", call=True)
    if not isinstance(found, nn.Module):
        raise RestartTypeError(f"features {text!r} must return an nn.Module, got {type(found).__name__}")
    return found, name


def made(text: str, what: str, call: bool = False) -> tuple[Any, str]:
    """Return what FILE.py:NAME or package.module:NAME is, or with `call` what it returns; and its name in rows."""
    where, colon, attribute = text.rpartition(":")
    if not colon and text.endswith(".py"):
        raise RestartValueError(f"{what} {text!r} is a file; say what in it: {text}:NAME" + _choices(Path(text)))
    if not colon or not where or not attribute.isidentifier():
        raise RestartValueError(
            f"features must be the name of a shipped extractor, FILE.py:NAME, package.module:NAME or a TorchScript "
            f"file, got {text!r}"
        )
    found: Any
    path = Path(where).expanduser()
    name = f"{path.name}:{attribute} {_digest(path)}" if where.endswith(".py") else text
    try:
        if where.endswith(".py"):
            with _folder(path.resolve().parent):
                found = getattr(_from_file(path), attribute)
                found = found() if call else found
        else:
            with _folder(Path.cwd()):
                found = getattr(importlib.import_module(where), attribute)
                found = found() if call else found
    except RestartError:
        raise
    except RAISED as error:
        hint = ""
        if isinstance(error, AttributeError) and where.endswith(".py"):
            hint = _choices(path)
        elif isinstance(error, TypeError):
            hint = "; NAME is a class or a function that is called without arguments and returns an nn.Module"
        raise RestartValueError(f"{what} {text!r} cannot be made: {explain(error)}{hint}") from error
    return found, name


def explain(error: BaseException) -> str:
    """Return the kind of an exception, its first line, and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<") and frame.filename != __file__]
    line = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {line}{place}"


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)[:12]
    except OSError as error:
        raise RestartValueError(f"cannot read the features' file {path}: {error.strerror or error}") from error


def _from_file(path: Path) -> ModuleType:
    """Import a file as a module, under a name that no package has."""
    name = f"restart_sampling_features_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what pickles and dataclasses look up
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Put `folder` first on the path, as Python does for a script, and take it away again."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _choices(path: Path) -> str:
    """Return what a file defines, as a hint, or "" if it cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name[:1] != "_"]
    return f"; {path.name} defines {', '.join(names[:10])}" + ", …" * (len(names) > 10) if names else ""
