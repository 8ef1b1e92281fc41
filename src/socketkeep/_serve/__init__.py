"""Code that was not written for Socketkeep, as handlers of its connections."""
