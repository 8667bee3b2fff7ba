"""Door 1: kernels, initrds and scripts over HTTP (RFC 9110, RFC 9112)."""
