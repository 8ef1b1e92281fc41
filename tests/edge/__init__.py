"""TLS that ends in the edge: by clients of `ssl` and of OpenSSL, through all that may happen."""
