"""The index that is asked now: opened once, and again when its folder holds another version."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from eval.search.gallery import Gallery
from eval.search.recall import fallen, said
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.release import Release

log = logging.getLogger("vlp.service")
Identity = tuple[int, ...]


@dataclass(frozen=True)
class Version:
    """An open index with the model that asks it."""

    gallery: Gallery
    release: Release
    identity: Identity


def identity(folder: Path) -> Identity:
    """Inode, time and size of the pointer of an index, which every version writes anew; () where there is none."""
    try:
        stat = (folder / "index.toml").stat()
    except OSError:
        return ()
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


class Current:
    """The version of the index in `folder` that is asked now.

    `version` is replaced as a whole: who has taken it asks one index with its own model to the end.
    """

    def __init__(self, folder: Path, *, model: str = "", device: str = "cpu", trust: bool = False) -> None:
        """Raises UserError if there is no index in `folder`, or if its model is not there."""
        self.folder, self.model, self.device, self.trust = folder, model, device, trust
        self.swaps = 0
        self._refused: Identity = ()
        self.version = self._open(None)

    def _open(self, before: Version | None) -> Version:
        """The version in the folder; its model is loaded only if it is another one than before. Raises UserError."""
        seen = identity(self.folder)
        gallery = Gallery.open(self.folder, trust=self.trust)
        builder = gallery.about["model"]["id"]
        if before is not None and builder in (before.release.id, ""):
            release = before.release
        else:
            release = releases.load(self.model or gallery.model, self.device, trust=self.trust)
        if builder not in (release.id, ""):
            raise UserError(
                f"{self.folder} was built by the model {builder[:12]} ({gallery.about['model']['name']}), but "
                f"{release.name} is {release.id[:12]}; give the model it was built with by --model"
            )
        if identity(self.folder) != seen:
            raise UserError(f"{self.folder} was replaced while it was opened; ask again")
        return Version(gallery, release, seen)

    def look(self) -> bool:
        """Whether there was a new version, which is asked from now on. One that cannot be opened changes nothing."""
        seen = identity(self.folder)
        if seen in (self.version.identity, self._refused, ()):
            return False
        try:
            self.version = self._open(self.version)
        except UserError as error:
            if identity(self.folder) == seen:  # it is no longer written: not worth another look
                self._refused = seen
                log.warning("the version before is still asked: %s", error)
            return False
        self.swaps += 1
        log.info("%s: a new version with %d pictures", self.folder, len(self.version.gallery.vectors))
        if fallen(self.version.gallery.about.get("measured", {})):
            log.warning("%s", "; ".join(said(self.version.gallery.about["measured"])))
        return True
