"""OpenTelemetry: spans of connections, moves and messages, and the server's metrics."""

try:
    import opentelemetry.trace as _trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "socketkeep.otel needs OpenTelemetry, which the extra otel brings: opentelemetry-sdk",
        name=error.name,
    ) from None

from socketkeep._telemetry._meters import observe
from socketkeep._telemetry._spans import instrument, message, messages

del _trace

__all__ = ["instrument", "message", "messages", "observe"]
