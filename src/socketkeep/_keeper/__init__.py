"""The one long-lived process: it binds, supervises and keeps, and imports no user code."""
