"""The `scaling` command. Modules here hold signatures and help; what they call is imported inside
each command, so that `scaling --help` is instant and `scaling fit` needs no JAX."""
