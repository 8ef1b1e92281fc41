"""The surface of a version: what users write down of it, and may rely on in the next one."""
