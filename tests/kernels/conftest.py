"""Kernel tests: `helpers` is importable, and Triton runs its kernels in the interpreter where there is no GPU.

Triton reads TRITON_INTERPRET when a kernel is defined, so it is set before any test module imports one.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
