"""Finding the service that `module:attribute` names."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidings.cli.command import Misused
from tidings.errors import TidingsError

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["load_service"]


async def load_service(target: str, app_dir: str) -> Service:
    """Import a module and return its service; an attribute that is a function without parameters is called for it.

    Raises:
        Misused: the name cannot be understood, the import failed, or it is no service.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise Misused(f"{target!r} does not say where the service is: write module:attribute, for example shop.app:service")
    directory = str(Path(app_dir).resolve())  # noqa: ASYNC240 - once, before anything runs
    if directory not in sys.path:
        sys.path.insert(0, directory)
    found: Any = _import(module_name, directory)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Misused(f"module {module_name!r} has no attribute {attribute!r}{_services_in(found)}") from None
    return await _made(found, target)


def _import(module_name: str, directory: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise Misused(
                f"there is no module {error.name!r} in {directory} or among the installed packages: say where with --app-dir"
            ) from None
        raise _broken(f"importing {module_name!r} failed", error) from error
    except Exception as error:
        raise _broken(f"importing {module_name!r} failed", error) from error


async def _made(found: Any, target: str) -> Service:
    from tidings.service import Service

    if isinstance(found, Service):
        return found
    if not callable(found) or isinstance(found, type):
        raise Misused(f"{target} is a {type(found).__name__}, neither a Service nor a function that returns one")
    made = _called(found, target)
    if inspect.isawaitable(made):
        try:
            made = await made
        except Exception as error:
            raise _broken(f"{target}() failed", error) from error
    if not isinstance(made, Service):
        raise Misused(f"{target}() returned a {type(made).__name__}, not a Service")
    return made


def _called(factory: Callable[..., Any], target: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise Misused(f"{target} cannot be called without arguments ({error}): give a function that needs none") from None
    try:
        return factory()
    except Exception as error:
        raise _broken(f"{target}() failed", error) from error


def _broken(what: str, error: Exception) -> Misused:
    """Say where the user's own code went wrong; with --debug the whole traceback is shown instead."""
    if click.get_current_context().find_root().params.get("debug"):
        raise error
    if isinstance(error, TidingsError):
        return Misused(f"{what}: {error}")
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}, line {error.lineno})"
    elif frames := [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    message = error.msg if isinstance(error, SyntaxError) else error
    return Misused(f"{what}: {type(error).__name__}: {message}{place}; tidings --debug … shows the traceback")


def _services_in(module: Any) -> str:
    from tidings.service import Service

    names = [name for name, value in vars(module).items() if isinstance(value, Service)] if hasattr(module, "__dict__") else []
    return f"; its services are {', '.join(names)}" if names else ""
