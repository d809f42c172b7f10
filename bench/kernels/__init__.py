"""Kernel benchmark: ``python -m bench.kernels --out FILE`` checks every variant, then times what is right."""
