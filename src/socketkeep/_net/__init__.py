"""Where connections come from and go to."""
