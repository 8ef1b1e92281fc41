"""The examples, each with the client that its docstring names."""
