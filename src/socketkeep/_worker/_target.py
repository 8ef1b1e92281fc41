"""Loading TARGET (``package.module:attr`` or ``path/file.py:attr``), and its failures in words."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pwd
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Final

from socketkeep._base import _log
from socketkeep._base._errors import HandlerError
from socketkeep._base._importing import application_first
from socketkeep._base._mistakes import LoadError
from socketkeep._base._originals import replaced
from socketkeep._base._tracebacks import brief_traceback, users_place
from socketkeep._config._kinds import kind_of
from socketkeep._net._handlers import Handler, Service, inspect_handler, served_as
from socketkeep._serve._recognized import flag_for, framework_of
from socketkeep._serve.asgi._application import handler_of, is_asgi, is_wsgi, wsgi_way
from socketkeep._worker._hooked import hooked
from socketkeep._worker._shadowing import Names

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig, WorkerModel

EXIT_USAGE: Final = 2
#: Who is known to replace parts of the standard library.
_PATCHERS: Final = ("gevent.monkey", "eventlet.patcher")


class _FromSource(SourceFileLoader):
    """Compiles the file as it is now.

    Cached bytecode is taken for current when size and mtime, in whole seconds, agree: code edited
    twice within a second would be reloaded as it was.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def load_handler(config: ServeConfig, idle: Mapping[str, str] | None = None) -> Handler:
    """Import TARGET's code and return its handler.  Raises LoadError.

    idle: what `idle_options` says of them, where the keeper has told it.
    """
    # For the modules of the user's, too, what this load reads must be what the next one compares.
    sys.dont_write_bytecode = True
    place, _, attribute = config.target.rpartition(":")
    target: object = _load_module(place)
    for name in attribute.split("."):
        target = _attribute(target, name, place)
    if config.factory:
        if not callable(target):
            raise LoadError(f"{config.target} is not callable, so it is no factory (--factory)")
        try:
            target = target()
        except Exception as error:
            raise LoadError(
                f"the factory {config.target} failed:\n{brief_traceback(error)}"
            ) from error
    kind = kind_of(config)
    served = target.handler if isinstance(target, Service) else target
    if not kind and is_asgi(served):
        _log.info("served as ASGI, since it takes scope, receive, send", target=config.target)
        kind = "asgi"
    try:
        handler = hooked(served_as(_handler_of(target, kind, config), target))
    except HandlerError as error:
        told = str(error)
        if is_wsgi(served):
            raise LoadError(wsgi_way(config.target)) from error
        framework = framework_of(served)
        if framework:
            told = f"{framework} has a server of its own for it; give an ASGI application"
        flag = flag_for(served)
        if flag and flag != f"--{kind}":
            instead = f" in place of --{kind}" if kind else ""
            told = f"give {flag}{instead} to serve it; {told}"
        raise LoadError(f"{config.target} cannot be a handler: {told}") from error
    model = choose_model(handler, config.model)
    if idle is None:
        from socketkeep._config._needs import idle_options

        idle = idle_options(config)
    if wrong := idle.get("asgi" if kind == "asgi" else model):
        raise LoadError(wrong, EXIT_USAGE)
    return handler


def _handler_of(target: object, kind: str, config: ServeConfig) -> Handler:
    if kind == "asgi":
        return handler_of(target, config)
    if kind == "asyncio":
        from socketkeep._serve._streams import adapt_streams

        return adapt_streams(target)
    if kind == "protocol":
        from socketkeep._serve._protocols import adapt_protocols

        return adapt_protocols(target)
    if kind == "socketserver":
        from socketkeep._serve._socketserver import adapt_socketserver

        return adapt_socketserver(target)
    return inspect_handler(target)


def files_passed_over() -> list[str]:
    """Return files of the loaded application that a standard module of their name hides."""
    return [
        path for each in sys.meta_path if isinstance(each, Names) for path in each.passed_over()
    ]


def choose_model(handler: Handler, wanted: str) -> WorkerModel:
    """Return the model that serves `handler`.  Raises LoadError when `wanted` does not fit it."""
    if wanted == "auto":
        return "async" if handler.is_async else "fork"
    if handler.is_async and wanted != "async":
        without = " without --threads" if wanted == "thread" else ""
        raise LoadError(
            f"{handler.name} is async, and the {wanted} model calls sync handlers: use -k async"
            f"{without}, or a plain function",
            EXIT_USAGE,
        )
    if not handler.is_async and wanted == "async":
        raise LoadError(
            f"{handler.name} is sync, and would stop the event loop of the async model: "
            "use -k thread, prefork or fork, or an async function",
            EXIT_USAGE,
        )
    models: dict[str, WorkerModel] = {
        "fork": "fork",
        "prefork": "prefork",
        "thread": "thread",
        "async": "async",
    }
    return models[wanted]


def check_replaced() -> None:
    """Raise LoadError where the user's code has replaced what the workers are made of."""
    names = replaced()
    if names:
        by = next((name for name in _PATCHERS if name in sys.modules), "")
        raise LoadError(
            f"the code replaces {', '.join(names)}{by and f', by {by}'}: the workers' own waits and"
            " locks would be its, and stand still. Leave the patching out, and choose a model that"
            " serves many connections a process: -k thread, or -k async with an async handler"
        )


def check_lifespan(lifespan: object, model: WorkerModel) -> None:
    """Raise TypeError for a lifespan that `model` cannot enter."""
    if model != "async" and not isinstance(lifespan, AbstractContextManager):
        raise TypeError(f"the lifespan is async, and the {model} model is not: make it sync")


def _load_module(place: str) -> ModuleType:
    from_file = place.endswith(".py") or os.sep in place
    working = _working_directory()
    try:
        if from_file:
            return _load_file(place, working)
        return _import_module(place, working)
    except ModuleNotFoundError as error:
        if not from_file and error.name and (place + ".").startswith(error.name + "."):
            _require_readable(working, place)
            raise LoadError(
                f"no module named {error.name!r}: expected package.module:attribute, found from "
                f"{working}, or path/file.py:attribute"
            ) from error
        where = users_place(error)
        if error.name is None or not where:
            raise LoadError(f"{place} cannot be imported:\n{brief_traceback(error)}") from error
        raise LoadError(
            f"{place} cannot be imported: {where} needs the module {error.name!r}, which is not"
            f" installed for {sys.executable}: install it there, or serve by the Python that has it"
        ) from error
    except LoadError:
        raise
    except PermissionError as error:
        if str(error.filename).endswith(".py"):
            raise LoadError(
                f"{place} cannot be imported: {_user()} cannot read {error.filename}"
            ) from error
        raise LoadError(f"{place} cannot be imported:\n{brief_traceback(error)}") from error
    except (Exception, SystemExit) as error:
        raise LoadError(f"{place} cannot be imported:\n{brief_traceback(error)}") from error


def _require_readable(directory: str, place: str) -> None:
    """Raise LoadError where it is for its rights that a module is not found."""
    paths = [directory]
    for name in place.split("."):
        paths += [os.path.join(paths[-1], f"{name}.py"), os.path.join(paths[-1], name)]
    for path in paths:
        try:
            os.scandir(path).close()
        except PermissionError:
            raise LoadError(f"{place} cannot be imported: {_user()} cannot read {path}") from None
        except OSError:
            pass  # it is a file, or there is none


def _user() -> str:
    uid = os.geteuid()
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        named = os.environ.get("PWD", "")
        raise LoadError(
            "the working directory has been removed" + (f" (it was {named})" if named else "")
        ) from None


def _import_module(place: str, directory: str) -> ModuleType:
    names = Names(application_first(directory))
    names.install()
    top = place.partition(".")[0]
    taken = sys.modules.get(top)
    own = os.path.join(directory, top)
    if taken is not None and os.path.exists(f"{own}.py") and not _is_of(taken, own):
        raise LoadError(
            f"{top} is a module that the server itself has loaded, so {own}.py cannot be loaded"
            f" as that: rename it, or give its path, {top}.py:attribute"
        )
    names.target = top
    try:
        return importlib.import_module(place)
    finally:
        names.target = ""


def _is_of(module: ModuleType, path: str) -> bool:
    return (getattr(module, "__file__", None) or "").startswith(path)


def _load_file(path: str, working: str) -> ModuleType:
    try:
        os.stat(path)
    except PermissionError:
        raise LoadError(f"{_user()} cannot read {os.path.abspath(path)}") from None
    except OSError:
        pass
    if not os.path.isfile(path):
        raise LoadError(f"no file {path}, looked for from {working}")
    name, suffix = os.path.splitext(os.path.basename(path))
    if suffix != ".py":
        raise LoadError(f"{path} is not a Python file (expected a name that ends in .py)")
    # As a script has it: what stands beside the file can be imported.
    resolved = os.path.realpath(path)
    Names(application_first(os.path.realpath(os.path.dirname(path)))).install()
    if name in sys.modules or name in sys.stdlib_module_names:
        name += "_py"  # the other module of that name is needed, now or later
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, resolved))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _attribute(owner: object, name: str, place: str) -> object:
    try:
        return getattr(owner, name)
    except AttributeError:
        import difflib  # for who has mistyped

        near = difflib.get_close_matches(name, dir(owner), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LoadError(f"{place} has no attribute {name!r}{hint}") from None
