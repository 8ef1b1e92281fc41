"""`socketkeep serve`: gather the options, check what can be checked, hand over to the keeper."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec

from socketkeep._base._accounts import become
from socketkeep._base._mistakes import OptionError
from socketkeep._cli._adopted import Adopted
from socketkeep._cli._completion import files, of_option, targets
from socketkeep._cli._exit import DONE, USAGE, Failure
from socketkeep._cli._preflight import preflight
from socketkeep._cli._say import say
from socketkeep._cli._serve_help import default_of, metavar, write_in_short, write_whole
from socketkeep._config._listener_options import with_whole_paths
from socketkeep._config._options import FLAG, Option
from socketkeep._config._renewal import Origins, origins_of, read_origins
from socketkeep._config._rights import account_to_become
from socketkeep._config._server_options import OPTIONS, ServeConfig
from socketkeep._config._settings import CONFIG_VARIABLE, gather
from socketkeep._guard._becoming import become_guarded, store_room
from socketkeep._guard._terms import guard_of_this
from socketkeep._keeper.rollout._directory import NamedDirectory, place_of
from socketkeep._net._listener import listeners_are_passed, listeners_passed

_IN_SHORT: Final = "socketkeep.in_short"  # of a click.Context: -h was given
_PATHS: Final = (
    "log_file",
    "request_log_file",
    "control",
    "admin_token_file",
    "push_token_file",
    "adopt_from",
    "allow_file",
    "deny_file",
    "cluster_credentials",
    "cluster_ca",
    "cluster_certificate",
    "cluster_key",
)


def _click_option(declared: Option) -> click.Option:
    # Values stay text here: one parser serves the command line, the environment and TOML.
    default = default_of(declared)
    text = f"{declared.help}  [{declared.variable}{'; default: ' if default else ''}{default}]"
    if declared.kind is FLAG:
        return click.Option(
            [f"{declared.flags[-1]}/{declared.no_flag}", declared.key], default=None, help=text
        )
    return click.Option(
        [*declared.flags, declared.key],
        default=None,
        type=str,
        multiple=declared.kind.is_list,
        metavar=metavar(declared),
        help=text,
        shell_complete=of_option(declared),
    )


class _Serve(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        declared = {option.key for option in OPTIONS}
        others = [each for each in self.get_params(ctx) if each.name not in declared]
        write = write_in_short if ctx.meta.get(_IN_SHORT) else write_whole
        write(formatter, others)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = tuple(args)  # click takes away what it has read
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from socketkeep._config._other_servers import instead_of  # for who knows another server

            here = instead_of(error.option_name, given)
            if not here:
                raise
            raise click.UsageError(f"there is no option {error.option_name}: {here}") from None


def _say_in_short(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_IN_SHORT] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _with_options(command: Callable[..., int]) -> click.Command:
    parameters: list[click.Parameter] = [
        click.Argument(["target"], required=False, shell_complete=targets),
        *(_click_option(declared) for declared in OPTIONS if declared.flags),
        click.Option(
            ["-c", "--config", "config_file"],
            metavar="FILE.toml",
            shell_complete=files,
            help=f"Read options from this file (keys as the long options, with underscores, at"
            f" its root or in [socketkeep]).  [{CONFIG_VARIABLE}]",
        ),
        click.Option(
            ["--print-config"],
            is_flag=True,
            help="Print the effective options and where each comes from, as TOML, and exit.",
        ),
        click.Option(
            ["--check-config"],
            is_flag=True,
            help="Check the options, load the handler's code, and exit without serving.",
        ),
        click.Option(
            ["-h", "_in_short"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_say_in_short,
            help="Show a line for each option, and exit.",
        ),
    ]
    return _Serve(
        "serve",
        params=parameters,
        callback=command,
        help=command.__doc__,
        no_args_is_help=False,
        context_settings={"help_option_names": ["--help"]},
    )


@_with_options
def serve(config_file: str | None, print_config: bool, check_config: bool, **flags: Any) -> int:
    """Serve connections with TARGET: package.module:attribute or path/file.py:attribute.

    An option comes from its flag, else its environment variable, else the TOML file, else its
    default.  The variable of --max-connections is SOCKETKEEP_MAX_CONNECTIONS, its key in the file
    max_connections, and so with every other.  -h is this with a line for each.
    """
    if print_config:
        click.echo(gather(flags, os.environ, config_file).as_toml(), nl=False)
        return DONE
    adopted: Adopted = click.get_current_context().obj or Adopted()
    wrong = ""
    try:
        ready = _ready(flags, config_file, adopted)
    except (OptionError, Failure) as error:
        again = None if check_config else _ready_as_before(flags, config_file, error)
        if again is None:
            raise
        ready, wrong = again, str(error)
    config, place, start, origins = ready.config, ready.place, ready.start, ready.origins
    if check_config:
        account = account_to_become(config)
        if account is not None:
            become(account)
        say(_check_code(config))
        return DONE
    command = [sys.executable, *sys.orig_argv[1:]]
    if _is_guarded(config, adopted):
        _become_guarded(config, command, start)
    # Here, so that --print-config and --check-config do not load a server.
    gc.disable()
    from socketkeep._admin._server import ServeFailure, run

    gc.enable()
    try:
        run(config, place, adopted.take(), command, start, origins, wrong)
    except ServeFailure as failure:
        raise Failure(failure.text, failure.exit_code) from None
    return DONE


@dataclass(frozen=True, slots=True)
class _Ready:
    """A server that can be started: how, in which place, from which directory."""

    config: ServeConfig
    place: NamedDirectory
    start: str
    origins: Origins


def _ready(flags: dict[str, Any], config_file: str | None, adopted: Adopted) -> _Ready:
    """Read the options, and look whether a server can be started so.  Raises as `serve`."""
    settings = gather(flags, os.environ, config_file)
    passed = listeners_are_passed() or bool(adopted.listeners)
    config = adopted.bound(settings.config(inherits_listeners=passed))
    start, place = _enter_checked(config)
    directory = os.getcwd() if place.guessed else place.name
    origins = origins_of(
        flags, _named(config_file), start, directory, settings.config(inherits_listeners=None)
    )
    return _Ready(_independent_of_directory(config, directory), place, start, origins)


def _named(config_file: str | None) -> str:
    return config_file if config_file is not None else os.environ.get(CONFIG_VARIABLE, "")


def _ready_as_before(
    flags: dict[str, Any], config_file: str | None, error: OptionError | Failure
) -> _Ready | None:
    """Return how the keeper was started that has died, where the settings file will not do now.

    None where none has died, or it was started otherwise: then this is the user's to mend.
    """
    guard = guard_of_this()
    if (guard is not None and not guard.starts) or getattr(error, "code", USAGE) != USAGE:
        return None
    from socketkeep._keeper.connections._fdstore import stored_settings  # for who needs it

    data = stored_settings(listeners_passed())
    origins = read_origins(data) if data else None
    if origins is None or not origins.are_of(flags, _named(config_file)):
        return None
    config = origins.config(inherits_listeners=listeners_are_passed())
    try:
        start, place = _enter_checked(config)
    except (OptionError, Failure):
        return None
    return _Ready(_independent_of_directory(config, origins.directory), place, start, origins)


def _enter_checked(config: ServeConfig) -> tuple[str, NamedDirectory]:
    """Go to the server's directory and check that it can work there.

    Returns the directory that this was started in, and that one.  Raises as `preflight`, and is
    where it was then.
    """
    start = _enter("").name
    place = _enter(config.chdir)
    try:
        preflight(config)
    except (OptionError, Failure):
        if config.chdir:
            _enter(start)
        raise
    return start, place


def _is_guarded(config: ServeConfig, adopted: Adopted) -> bool:
    """Return whether this process is to become a guard, its child the keeper.  Raises Failure."""
    if guard_of_this() is not None or config.guard == "off":
        return False
    manager = os.environ.get("NOTIFY_SOCKET")
    # What a keeper is started with again must be what this process was started with.
    repeatable = sys.argv[1:2] == ["serve"] and not adopted.listeners
    if config.guard != "auto" and (manager or not repeatable):
        why = "a service manager does that (NOTIFY_SOCKET)" if manager else "not with adopt"
        said = f"--guard {config.guard}"
        raise Failure(f"{said}: there can be no guard: {why}; leave it at auto", USAGE)
    return not manager and repeatable


def _become_guarded(config: ServeConfig, command: list[str], directory: str) -> None:
    """Return in the keeper, the child of this process.  Raises Failure."""
    try:
        become_guarded(
            *(command, directory, store_room(config.guard_store), listeners_passed()),
            sidecar=config.guard.removeprefix("unix:") if ":" in config.guard else "",
            name=config.name or config.target,
        )
    except OSError as error:
        raise Failure(f"--guard: cannot be started: {error.strerror}; or say --guard off") from None


def _enter(wanted: str) -> NamedDirectory:
    """Go to the directory that the server runs in, and return its name.  Raises Failure."""
    try:
        place = place_of(wanted, os.environ.get("PWD"))
    except OSError:
        raise Failure(
            "the working directory has been removed: start from one that is there, or give --chdir"
        ) from None
    if wanted:
        try:
            os.chdir(place.name)
        except OSError as error:
            raise Failure(f"--chdir: cannot enter {place.name}: {error.strerror}", USAGE) from None
        os.environ["PWD"] = place.name
    return place


def _independent_of_directory(config: ServeConfig, directory: str) -> ServeConfig:
    """Return the configuration with absolute paths of the server's own files.

    A reload, for which the directory may be another, must not take them to other files.
    """
    given = {key: getattr(config, key) for key in _PATHS if getattr(config, key)}
    absolute = {key: os.path.join(directory, path) for key, path in given.items()}
    try:
        bind = [with_whole_paths(text, directory) for text in config.bind]
    except OptionError as error:
        raise Failure(f"--bind: {error}", USAGE) from None
    return msgspec.structs.replace(config, bind=bind, **absolute)


def _check_code(config: ServeConfig) -> str:
    """Load the handler as a template would; return what is to be told about it."""
    from socketkeep._base._mistakes import LoadError
    from socketkeep._worker._target import choose_model, load_handler

    try:
        handler = load_handler(config)
        model = choose_model(handler, config.model)
    except LoadError as error:
        raise Failure(error.text, error.exit_code) from None
    kept = "resumable" if handler.resumable else "not resumable"
    return f"the options are good, and {config.target} loads: {kept}, model {model}"
