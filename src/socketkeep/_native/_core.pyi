# Each name is the twin, in C, of one in Python.
