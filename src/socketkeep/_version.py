"""The version of Socketkeep; what packs it reads it here, too."""

VERSION = "1.0.0rc1"
