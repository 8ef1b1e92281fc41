"""The documentation's programs and commands, run as its readers run them."""
