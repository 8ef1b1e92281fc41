"""The change from one load of the code, or one version of the keeper, to the next."""
