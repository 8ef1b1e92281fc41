"""The guard: the process that holds a second handle of what the keeper holds, and nothing else."""
