"""The keeper's workers and templates: started, heard, replaced and reaped."""
