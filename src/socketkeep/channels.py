"""A layer for Django Channels: see `Layer`."""

from socketkeep._serve._channels import Layer

__all__ = ["Layer"]
