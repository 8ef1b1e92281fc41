"""`socketkeep serve`, from the outside: what its peers, its log and its exit code say."""
