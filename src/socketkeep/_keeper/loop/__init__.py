"""The keeper's loop, and the system below it: descriptors, timers, processes and their deaths."""
