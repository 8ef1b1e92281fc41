"""The reference page of the options, in Markdown, from their declarations."""

from __future__ import annotations

from socketkeep._config._listener_options import listener_options_markdown
from socketkeep._config._needs import needs_of
from socketkeep._config._options import DURATION, FLAG, LISTENERS, PERMISSIONS, SIZE, Option
from socketkeep._config._server_options import by_topic


def options_markdown() -> str:
    """Return the reference of every option of `socketkeep serve`, by topic, a section each."""
    return "\n".join(
        f"## {title}\n\n" + "\n".join(_section(declared) for declared in declared_there)
        for title, declared_there in by_topic().items()
    )


def _section(declared: Option) -> str:
    if not declared.flags:
        title = "TARGET"
    else:
        title = ", ".join(f"`{flag}`" for flag in declared.flags)
        if declared.kind is FLAG:
            title += f", `{declared.no_flag}`"
    rows = [
        ("Value", _value(declared)),
        ("Default", _code(declared.default_text) if declared.flags else "none, it must be given"),
        ("Environment", _code(declared.variable)),
        ("TOML", _code(_example(declared))),
        ("Changes at", "a reload, in the file" if declared.at_reload else "a restart"),
        *(("Does nothing without", need) for need in needs_of(declared.key)),
    ]
    facts = "".join(f"- {name}: {text}\n" for name, text in rows)
    anchor = f"(option-{declared.key.replace('_', '-')})=\n"
    more = f"\n{listener_options_markdown()}" if declared.kind is LISTENERS else ""
    return f"{anchor}### {title}\n\n{declared.help}\n\n{facts}{more}"


def _value(declared: Option) -> str:
    if declared.choices:
        return "one of " + ", ".join(_code(choice) for choice in declared.choices)
    text = declared.kind.expected
    if declared.minimum:
        text += f", at least {declared.minimum}"
    if declared.zero:
        text += f"; 0 means: {declared.zero}"
    if declared.kind is LISTENERS:
        text = (
            "an address and options of the listener; repeat the option for more, or separate them"
            " by commas in the variable"
        )
    return text


def _example(declared: Option) -> str:
    examples = {
        "target": 'target = "package.module:handle"',
        "name": 'name = "chat"',
        "admin": 'admin = "127.0.0.1:9000"',
        "agent_check": 'agent_check = "127.0.0.1:9001"',
        "admin_token_file": 'admin_token_file = "/run/credentials/chat.service/admin-token"',
        "metrics_label": 'metrics_label = "firmware=20"',
        "push_token_file": 'push_token_file = "/run/credentials/chat.service/push-token"',
        "control": 'control = "/run/chat/control.sock"',
        "rcvbuf": 'rcvbuf = "256K"',
        "sndbuf": 'sndbuf = "256K"',
        "log_file": 'log_file = "/var/log/chat.log"',
    }
    if declared.key in examples:
        return examples[declared.key]
    if declared.kind is FLAG:
        return f"{declared.key} = true"
    if declared.kind is DURATION and not declared.default:
        return f'{declared.key} = "10m"'
    if declared.kind is SIZE:
        return f'{declared.key} = "{"200M" if not declared.default else "64K"}"'
    if declared.kind is PERMISSIONS:
        return f'{declared.key} = "0660"'
    return f"{declared.key} = {declared.kind.write(declared.default)}"


def _code(text: str) -> str:
    return f"`{text}`" if text else "none"
