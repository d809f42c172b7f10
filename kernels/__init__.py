"""Shoal's operators: one Triton kernel per hot operation, each with a plain PyTorch reference beside it.

Importing this package imports neither Triton nor CUDA: CPU tensors go to the reference, CUDA tensors import the
kernel on first use, so a laptop without Triton serves with the same code.
"""
