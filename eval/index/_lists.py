"""Indexes larger than memory: the lists of several are joined into one file, which is then read as it is needed.

The file is the one that FAISS would write of the whole index, so that it opens like any other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlp.errors import UserError


def write_joined(parts: Sequence[Any], path: Path) -> None:
    """Write the lists of several copies of one trained index, whose ids differ, as one index; they may be mapped.

    One list is in memory at a time. Raises UserError for lists that FAISS does not keep plainly.
    """
    import faiss

    cells = [faiss.extract_index_ivf(part) for part in parts]
    sizes = np.array([[one.invlists.list_size(n) for n in range(one.nlist)] for one in cells])  # [P, C]
    with path.open("wb") as file:
        file.write(_head(parts[0], int(sizes.sum())))
        file.write(b"ilar" + struct.pack("<QQ", cells[0].nlist, cells[0].code_size))
        file.write(_sizes(sizes.sum(axis=0)))
        for number in range(cells[0].nlist):
            some = [one.invlists for one, size in zip(cells, sizes[:, number], strict=True) if size]
            for lists in some:
                codes = lists.get_codes(number)
                file.write(faiss.rev_swig_ptr(codes, lists.list_size(number) * lists.code_size))
                lists.release_codes(number, codes)
            for lists in some:
                ids = lists.get_ids(number)
                file.write(faiss.rev_swig_ptr(ids, lists.list_size(number)))
                lists.release_ids(number, ids)


def emptied(faiss_index: Any) -> Any:
    """A copy of an index, trained as it is, with empty lists in memory."""
    import faiss

    made = faiss.deserialize_index(faiss.serialize_index(faiss_index), faiss.IO_FLAG_SKIP_IVF_DATA)
    own = faiss.extract_index_ivf(made)
    lists = faiss.ArrayInvertedLists(own.nlist, own.code_size)
    own.replace_invlists(lists, True)
    lists.this.disown()
    made.ntotal = own.ntotal = 0
    return made


def _head(faiss_index: Any, count: int) -> bytes:
    """What FAISS writes of an index of `count` vectors before its lists."""
    import faiss

    empty = emptied(faiss_index)
    empty.ntotal = faiss.extract_index_ivf(empty).ntotal = count
    whole = faiss.serialize_index(empty).tobytes()
    head, mark, lists = whole.rpartition(b"ilar")
    if not mark or len(lists) != 16 + len(_sizes(np.zeros(faiss.extract_index_ivf(empty).nlist, np.int64))):
        raise UserError("this kind of index cannot leave its lists on the disk; take ivf or ivf_sq8")
    return bytes(head)


def _sizes(sizes: np.ndarray[Any, Any]) -> bytes:
    """The sizes of lists: all of them, or, where more than half are empty, number and size of the others."""
    filled = np.flatnonzero(sizes)
    if len(filled) > len(sizes) // 2:
        return b"full" + struct.pack("<Q", len(sizes)) + sizes.astype("<u8").tobytes()
    pairs = np.stack([filled, sizes[filled]], axis=1).astype("<u8")
    return b"sprs" + struct.pack("<Q", pairs.size) + pairs.tobytes()
