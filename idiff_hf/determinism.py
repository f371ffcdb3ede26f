"""`train.deterministic`: the algorithms of PyTorch that give the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE_CONFIG = ":4096:8"
"""One of the two values with which cuBLAS repeats itself; the other, `:16:8`, is for cards that lack 24 MiB."""


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Deterministic algorithms only, no search for the fastest convolution and no TF32 inside the `with`; as it was before afterwards.

    https://docs.pytorch.org/docs/stable/notes/randomness.html. `enable_full_determinism` of diffusers is made for tests: it makes every
    CUDA call wait for its end, leaves TF32 in convolutions, and cannot put back what it changed.

    cuBLAS reads its variable once, so that on a GPU this has to come before the first product of matrices. A variable that is set already
    is left as it is.

    Args:
        enabled: Whether to change anything.
    """
    if not enabled:
        yield
        return
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    products = torch.backends.cuda.matmul.allow_tf32
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    convolutions = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    try:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE_CONFIG)
        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.matmul.allow_tf32 = False
        with convolutions:
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cuda.matmul.allow_tf32 = products
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]
