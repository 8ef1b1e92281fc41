"""The processes that hold user code: a template a generation, and the workers forked from it."""
