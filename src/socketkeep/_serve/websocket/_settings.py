"""The settings of WebSockets, by the options."""

from __future__ import annotations

from typing import NamedTuple, Self

from socketkeep._config._server_options import ServeConfig


class WebSocketSettings(NamedTuple):
    """The options, as they are needed.

    most: bytes of a message.  window_bits: of the compression, 0 for none.  ping_interval,
    ping_timeout: seconds, 0 for none.  resume: "off", "on" or "silent".  request, response: what is
    answered without the application, None for nothing.
    """

    most: int
    window_bits: int
    ping_interval: float
    ping_timeout: float
    resume: str
    request: str | None
    response: str

    @classmethod
    def of(cls, options: ServeConfig) -> Self:
        """Return them as a server's configuration has them."""
        request, _, response = options.ws_auto_response.partition("=")
        return cls(
            options.ws_max_size,
            options.ws_window_bits if options.ws_per_message_deflate else 0,
            options.ws_ping_interval,
            options.ws_ping_timeout,
            options.ws_resume,
            request or None,
            response,
        )
