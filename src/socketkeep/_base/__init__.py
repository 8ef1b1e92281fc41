"""Concepts that everything else stands on: errors, addresses, descriptors, forks, the log."""
