"""Putting an index on a GPU, where the installed FAISS can."""

from __future__ import annotations

from typing import Any

from vlp.errors import UserError


def need_gpu(kind: str, instead: str) -> None:
    """Raise UserError, which names the kind to take `instead`, if FAISS has no GPU to use."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise UserError(
            f"kind {kind} needs FAISS for GPUs, but faiss-cpu is installed; "
            f"replace it: pip uninstall faiss-cpu && pip install faiss-gpu, or choose --kind {instead}"
        )
    if faiss.get_num_gpus() == 0:
        raise UserError(f"kind {kind} needs a GPU, but FAISS sees none; choose --kind {instead}")


def has_gpu() -> bool:
    """Whether FAISS has a GPU to use."""
    import faiss

    return hasattr(faiss, "StandardGpuResources") and int(faiss.get_num_gpus()) > 0


def on_gpu(faiss_index: Any) -> Any:
    """A copy of `faiss_index` on the first GPU; what it needs there lives as long as the copy."""
    import faiss

    resources = faiss.StandardGpuResources()
    copy = faiss.index_cpu_to_gpu(resources, 0, faiss_index)
    copy.resources = resources
    return copy
