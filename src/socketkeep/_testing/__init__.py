"""The conformance suite: each check is stated once, and run on sync and async streams alike."""
