"""The keeper's policies and tables, without I/O."""
