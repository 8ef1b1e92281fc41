"""Which version of Socketkeep this is; what packs it reads it here, too."""

VERSION = "0.1.0"
