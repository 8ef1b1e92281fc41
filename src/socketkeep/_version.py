"""The version of Socketkeep; what packs it reads it here, too."""

VERSION = "0.1.0"
