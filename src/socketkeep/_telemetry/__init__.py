"""Spans and metrics of the server, for OpenTelemetry."""
