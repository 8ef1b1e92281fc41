"""Measurements of Socketkeep beside what it stands next to, each ratio from within one run."""
