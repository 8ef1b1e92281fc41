"""How fast Socketkeep is, and what it costs, against its peers: ``python -m benchmarks --help``."""
