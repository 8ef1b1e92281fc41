"""Tests of ASGI applications, served by HTTP."""
