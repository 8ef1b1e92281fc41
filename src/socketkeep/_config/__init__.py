"""The options of a server: what an option is, which there are, where their values come from."""
