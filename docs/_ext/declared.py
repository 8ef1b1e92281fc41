"""Reference pages from what the code declares, so that they cannot say something else.

A page that ends in a line ``{{ declared: NAME }}`` has that line replaced by what `PAGES` makes.
"""

from __future__ import annotations

import ast
import builtins
import errno
import inspect
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import click
import msgspec
import yaml
from benchmarks import _figures as benchmark_figures
from benchmarks import _report as benchmark_report
from benchmarks import _results as benchmark_results
from docs._ext.diagram import svg
from docs._ext.docstrings import parted
from docs._ext.lab import RECORD, lab_markdown
from docs._ext.processes import svg as processes_svg
from docs._ext.reference import topics_markdown
from sphinx.application import Sphinx

import socketkeep
from socketkeep._admin import _metrics, _reports
from socketkeep._base import _errors, _events
from socketkeep._base._verbs import VERBS
from socketkeep._cli import _ending, _main, doctor
from socketkeep._config import _options_page
from socketkeep._config import _server_options as _config
from socketkeep._inspect import _diagnosis, _ends, _judging, _leaks, _machine, _why
from socketkeep._inspect import _results as inspect_results
from socketkeep._keeper import _signals
from socketkeep._keeper.tables import _ownership
from socketkeep._keeper.workers import _generations
from socketkeep._lab import _results as lab_results
from socketkeep._stream import _lifecycle, _tls

ALERTS: Final = Path(__file__).parents[2] / "contrib" / "prometheus" / "alerts.yml"
#: What every error is, and need not be said.
ROOTS: Final = (Exception, BaseException, object)

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def commands_markdown() -> str:
    """Return a section for each command of the command line, by topic, with its help."""
    context = click.Context(_main.group, info_name="socketkeep", max_content_width=88)
    sections = []
    for topic, names in _main.COMMANDS_BY_TOPIC.items():
        sections.append(f"## {topic}\n")
        for name in names:
            if name == "serve":
                sections.append("### serve\n\nIts options are on [their own page](options.md).\n")
                continue
            command = _main.group.get_command(context, name)
            assert command is not None
            own = click.Context(command, info_name=name, parent=context, max_content_width=88)
            sections.append(f"### {name}\n\n```text\n{command.get_help(own)}\n```\n")
    return "\n".join(sections)


def signals_markdown() -> str:
    """Return the table of the signals that a server heeds."""
    rows = (f"| {names} | {about} |\n" for names, about in _signals.MEANINGS)
    return "| signal | what the server does |\n|---|---|\n" + "".join(rows)


def reports_markdown() -> str:
    """Return a section for each JSON object that a command prints."""
    sections = []
    for title, report in (
        ("status", _reports.StatusReport),
        ("workers: a list of", _reports.WorkerReport),
        ("connections: a list of", _reports.ConnectionReport),
        ("listeners: a list of", _reports.ListenerReport),
        ("reload", _reports.ReloadCost),
        ("reload --dry-run", _reports.ReloadForecast),
        ("reload --wait", _reports.ReloadReport),
        ("upgrade", _reports.UpgradeReport),
        ("reload: its stays, its cut", _reports.StayingReport),
        ("reload: its silent, its earlier", _reports.WorkerStayingReport),
        ("reload, upgrade: their changed, their restart", _reports.OptionReport),
        ("status: its workers", _reports.WorkersByState),
        ("status: its connections", _reports.ConnectionsByState),
        ("status: its totals", _reports.Totals),
        ("totals: attached", _reports.AttachedByReason),
        ("totals: proxy_refused", _reports.RefusedHeaders),
        ("totals: over_limit", _reports.OverLimits),
        ("totals: pushes", _reports.PushesByOutcome),
        ("status: its waits", _reports.WaitReportByReason),
        ("waits: of one reason", _reports.WaitReport),
        ("status: its edges", _reports.EdgesReport),
        ("edges: their certificates", _reports.CertificateReport),
        ("status: its guard", _reports.GuardReport),
        ("status: its cluster", _reports.ClusterReport),
        ("who", _reports.PresentReport),
        ("who: its found", _reports.PresenceReport),
        ("push", _reports.PushReport),
        ("publish", _reports.PublishReport),
        ("disconnect", _reports.DisconnectReport),
        ("holders", inspect_results.HeldSockets),
        ("holders: its sockets", inspect_results.HeldSocket),
        ("holders: a socket's holders", inspect_results.SocketHolder),
        ("holders: a socket's timer", inspect_results.Timer),
        ("holders: a socket's tcp", inspect_results.TcpFacts),
        ("lab", lab_results.LabReport),
        ("lab: its findings", lab_results.Finding),
        ("lab: a finding's steps", lab_results.Step),
        ("lab: a step's packets", lab_results.EndingPacket),
        ("lab: a finding's checks", lab_results.Observation),
        ("why", _why.Explanation),
        ("why: its diagnoses", _diagnosis.Diagnosis),
        ("leaks", _leaks.Leaks),
        ("leaks: its leaks", _judging.Leak),
        ("doctor", doctor.Examination),
        ("doctor: its findings", _machine.MachineFinding),
        ("fin, abort", _ending.EndedSockets),
        ("fin, abort: their outcomes", _ends.Outcome),
    ):
        hints = get_type_hints(report)
        about, meanings = parted(report)
        names = [field.name for field in msgspec.structs.fields(report)]
        rows = "".join(
            f"| `{name}` | {_type_text(hints[name])} | {meanings.get(name, '')} |\n"
            for name in names
        )
        head = "| field | type | |\n|---|---|---|\n"
        sections.append(f"### {title}\n\n{about}\n\n{head}{rows}")
    return "\n".join(sections)


def layers_markdown() -> str:
    """Return the table of layers that the tests hold the imports to."""
    test = Path(__file__).parents[2] / "tests" / "test_layers.py"
    for node in ast.parse(test.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LAYERS":
            assert node.value is not None
            rows = (
                f"| {name} | {', '.join(f'`{module}`' for module in modules)} |\n"
                for name, modules in ast.literal_eval(node.value)
            )
            return "| layer | modules |\n|---|---|\n" + "".join(rows)
    raise LookupError(f"{test} has no LAYERS")


def errors_markdown() -> str:
    """Return a section for each public error: what it also is, its cause and its remedy."""
    sections = []
    for kind in (*vars(_errors).values(), _tls.TlsFailure, _tls.CertificateRefused):
        if not (isinstance(kind, type) and issubclass(kind, _errors.SocketkeepError)):
            continue
        if kind.__name__ not in socketkeep.__all__ or kind is _errors.SocketkeepError:
            continue
        also = ", ".join(
            f"`{base.__module__.removeprefix('builtins')}.{base.__name__}`".replace("`.", "`")
            for base in kind.__mro__
            if not base.__module__.startswith("socketkeep") and base not in ROOTS
        )
        about = " ".join((kind.__doc__ or "").split())
        sections.append(
            f"### {kind.__name__}\n\n"
            f":::{{py:exception}} socketkeep.{kind.__name__}\n:no-contents-entry:\n\n"
            f"*Also:* {also}\n\n*Cause:* {about}\n\n*Remedy:* {kind.remedy}\n:::\n"
        )
    return "\n".join(sections)


def errno_markdown() -> str:
    """Return the table of what each error of the system's becomes."""
    rows: dict[tuple[str, str], list[str]] = {}
    for (code, operation), kind in _errors.TABLE.items():
        where = "any" if operation == _errors.ANY else f"`{operation}`"
        rows.setdefault((kind.__name__, where), []).append(f"`{errno.errorcode[code]}`")
    lines = "".join(
        f"| {', '.join(codes)} | {where} | [`{name}`](#{name.lower()}) |\n"
        for (name, where), codes in rows.items()
    )
    return f"| errno | operation | error |\n|---|---|---|\n{lines}"


def verbs_markdown() -> str:
    """Return the table of what each verb does that lets go of a connection."""
    rows = "".join(
        f"| `{verb.call}` | {' | '.join(cell.value for cell in verb[1:])} |\n" for verb in VERBS
    )
    return (
        "| | the peer sees | this descriptor | the other holders | unread bytes |\n"
        f"|---|---|---|---|---|\n{rows}"
    )


def transitions_markdown(transitions: Mapping[tuple[S, E], S]) -> str:
    """Return the diagram and the table of a state machine."""
    rows = "".join(
        f"| {before.value} | {event.value} | {after.value} |\n"
        for (before, event), after in transitions.items()
    )
    return f"{svg(transitions)}\n\n| state | event | next |\n|---|---|---|\n{rows}"


def _type_text(hint: Any) -> str:
    names = {str: "string", int: "number", float: "number (seconds)", bool: "boolean"}
    if hint in names:
        return names[hint]
    or_null = " or null" if type(None) in get_args(hint) else ""
    if or_null:
        (hint,) = set(get_args(hint)) - {type(None)}
    if hint in names:
        return names[hint] + or_null
    match get_origin(hint):
        case builtins.list | builtins.tuple:
            return "list of strings" if str in get_args(hint) else "list of objects"
        case builtins.dict:
            _, each = get_args(hint)
            return f"object: {_type_text(each)} for each name".replace(": n", ": a n", 1)
        case typing.Literal:
            return "string"
    return "object" + or_null


def alerts_markdown() -> str:
    """Return the alerts of `contrib`, each with when it comes and what to do."""
    rows = []
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                when = f"`{' '.join(rule['expr'].split())}`".replace("|", "\\|")
                during = f" for {rule['for']}" if "for" in rule else ""
                urgent, todo = rule["labels"]["severity"], rule["annotations"]["description"]
                rows.append(f"| `{rule['alert']}` | {when}{during} | {urgent} | {todo} |\n")
    return f"| alert | when | how urgent | what to do |\n|---|---|---|---|\n{''.join(rows)}"


def _measured(make: Callable[..., str], *arguments: Any) -> str:
    return make(benchmark_figures.read(benchmark_results.FIGURES), *arguments)


PAGES: Final[dict[str, Callable[[], str]]] = {
    "options": _options_page.options_markdown,
    "commands": commands_markdown,
    "reports": reports_markdown,
    "signals": signals_markdown,
    "layers": layers_markdown,
    "topics": topics_markdown,
    "metrics": _metrics.metrics_markdown,
    "errors": errors_markdown,
    "events": _events.events_markdown,
    "errno": errno_markdown,
    "lab": lab_markdown,
    "verbs": verbs_markdown,
    "processes": processes_svg,
    "ownership": partial(transitions_markdown, _ownership.TRANSITIONS),
    "measured where": partial(_measured, benchmark_report.environment_markdown),
    "capacity": partial(_measured, benchmark_report.capacity_markdown),
    "alerts": alerts_markdown,
    "measured targets": partial(_measured, benchmark_report.targets_markdown),
    **{
        f"measured {work}": partial(_measured, benchmark_report.peers_markdown, work)
        for work in "abcdg"
    },
    **{
        f"measured {work}": partial(_measured, benchmark_report.metrics_markdown, work, metrics)
        for work, metrics in benchmark_report.METRICS.items()
    },
    "generations": partial(transitions_markdown, _generations.TRANSITIONS),
    "lifecycle": partial(transitions_markdown, _lifecycle.TRANSITIONS),
}


def fill(app: Sphinx, _docname: str, content: list[str]) -> None:
    """Replace the placeholders of a page; Sphinx calls it with the text as it was read."""
    for name, make in PAGES.items():
        placeholder = f"{{{{ declared: {name} }}}}"
        if placeholder in content[0]:
            content[0] = content[0].replace(placeholder, make())
            for module in (
                _config,
                _errors,
                _events,
                _metrics,
                _reports,
                inspect_results,
                _main,
                _ownership,
                _generations,
                _lifecycle,
            ):
                app.env.note_dependency(inspect.getfile(module))
            for file in (
                RECORD,
                ALERTS,
                benchmark_results.FIGURES,
                *Path(__file__).parent.glob("*.py"),
            ):
                app.env.note_dependency(str(file))


def keep_backslashes(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Keep what reStructuredText would take for escapes; docstrings here have none."""
    lines[:] = [line.replace("\\", "\\\\") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    # Before napoleon, whose own escapes are meant.
    app.connect("autodoc-process-docstring", keep_backslashes, priority=100)
    return {"parallel_read_safe": True}
