"""PROXY headers before what is served, by clients of our own and by real proxies."""
