"""The edge: long-lived processes in which TLS ends, and no user code runs."""
