"""Telemetry: what OpenTelemetry and Sentry are told."""
