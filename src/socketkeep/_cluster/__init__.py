"""The cluster: names and groups of several machines, over NATS, in a process beside the keeper."""
