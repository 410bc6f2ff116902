"""SugarCrepe (Hsieh et al. 2023, 2306.14610): COCO's pictures, each with a caption and a false one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eval.datasets import Block, Dataset, Protocol
from eval.datasets._captions import Captioned, captioned_blocks
from eval.datasets._reading import absent, field_of, first_there, json_of, sum_of
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "https://github.com/RAIVNLab/sugar-crepe (the files in data) and https://cocodataset.org (val2017.zip)"
COUNTS = {"add_att": 692, "add_obj": 2_062, "replace_att": 788, "replace_obj": 1_652, "replace_rel": 1_406}
COUNTS |= {"swap_att": 666}  # of swap_obj there are versions of different length


@dataclass(frozen=True, kw_only=True)
class SugarCrepe(Dataset):
    """One of its seven parts; `root` has the files (or data/ with them) and val2017/ with the pictures."""

    part: Literal["add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"] = "add_att"
    """what is false in the false captions"""
    images: str = "val2017"
    """folder of COCO's pictures under root"""

    @property
    def spec(self) -> str:
        """Folder and part."""
        return f"{self.root or 'SugarCrepe'} ({self.part})"

    @property
    def protocol(self) -> Protocol:
        """One true and one false caption each."""
        return Protocol(expected=COUNTS.get(self.part), metric="accuracy", source=SOURCE)

    def missing(self) -> str:
        """No such file."""
        return "" if self._file() else absent("SugarCrepe", Path(self.root), self._names, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """In the order of the file. Raises UserError for pictures that are missing, unless `skip_damaged`."""
        items = self._items()
        yield from captioned_blocks(items, Path(self.root, f"{self.part}.json"), skip, skip_damaged=skip_damaged)

    def sha256(self) -> str:
        """Of the file and of the pictures that it names."""
        file = self._file()
        paths = [*([file] if file else []), *(item.path for item in self._items())]
        return sum_of(f"sugarcrepe {self.part}", Path(self.root), paths)

    @property
    def _names(self) -> list[str]:
        return [f"{self.part}.json", f"data/{self.part}.json"]

    def _file(self) -> Path | None:
        return first_there(Path(self.root).expanduser(), self._names)

    def _items(self) -> list[Captioned]:
        file = self._file()
        if file is None:
            raise UserError(self.missing())
        tree = json_of(file, "a file of SugarCrepe")
        if not isinstance(tree, Mapping) or not tree:
            raise UserError(f"{file} is no file of SugarCrepe: expected a table of entries by number")
        folder = Path(self.root).expanduser() / self.images
        return [
            Captioned(
                folder / field_of(row, "filename", str, file),
                {"en": (field_of(row, "caption", str, file).strip(),)},
                {"negatives": [field_of(row, "negative_caption", str, file).strip()]},
                key=f"{self.part}_{number}",
            )
            for number, row in tree.items()
        ]
