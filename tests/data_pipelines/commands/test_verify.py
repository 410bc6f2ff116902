"""Verifying shards: each kind of damage is found, said in one sentence, and makes the status 1."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands import verify
from data_pipelines.commands.build import Shards, build
from data_pipelines.sources.folder import Folder
from vlp.errors import UserError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(6):
        Image.effect_noise((20, 20), 40.0 + i).convert("RGB").save(root / f"p{i}.png")
        (root / f"p{i}.txt").write_text(f"noise {i}")
    build(Folder(root), tmp_path / "out", shards=Shards(shard_size=3, threads=1))
    return tmp_path / "out"


def rewrite(tar: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Change or remove members of a tar, and make the manifest agree with its new bytes."""
    with tarfile.open(tar) as old:
        members = [(m.name, old.extractfile(m).read()) for m in old]  # type: ignore[union-attr]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, data in members:
            if (data := change(name, data)) is not None:  # type: ignore[assignment]
                info = tarfile.TarInfo(name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    path = tar.parent / "manifest.json"
    tree = json.loads(path.read_text())
    for row in tree["shards"]:
        if row["file"] == tar.name:
            row["bytes"], row["sha256"] = tar.stat().st_size, hashlib.sha256(tar.read_bytes()).hexdigest()
    path.write_text(json.dumps(tree))


def found(shards: Path) -> list[str]:
    return list(verify.problems(verify.Verify(str(shards), threads=1)))


def test_whole_shards_have_no_problems(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(shards) == []
    assert verify.main([str(shards), "--threads", "1"]) == 0
    assert capsys.readouterr().out == "2 shards with 6 samples are whole\n"


def test_a_flipped_byte_is_found_by_the_sum(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shards / "00001.tar"
    data = bytearray(path.read_bytes())
    data[520] ^= 1
    path.write_bytes(data)
    problems = found(shards)
    assert any("its bytes were changed" in p and "00001.tar" in p for p in problems)
    assert verify.main([str(shards), "--threads", "1"]) == 1
    assert capsys.readouterr().out.endswith("problems in 2 shards\n") or len(problems) == 1


def test_a_truncated_tar_is_found_by_bytes_and_by_count(shards: Path) -> None:
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:2500])
    text = "\n".join(found(shards))
    assert "has 2500 bytes, but the manifest says" in text
    assert "samples, but the manifest says 3" in text


def test_a_missing_tar_is_named(shards: Path) -> None:
    (shards / "00000.tar").unlink()
    [problem] = found(shards)
    assert "00000.tar" in problem
    assert "cannot be read" in problem


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, data: b"not a picture" if name == "p1.png" else data, "sample p1 has an undecodable picture"),
        (
            lambda name, data: data[: len(data) // 2] if name == "p1.png" else data,
            "sample p1 has an undecodable picture",
        ),
        (lambda name, data: None if name == "p1.png" else data, "missing picture"),
        (lambda name, data: None if name.startswith("p1.") and name != "p1.png" else data, "missing caption"),
        (
            lambda name, data: b"{}" if name == "p1.json" else b"" if name == "p1.txt" else data,
            "sample p1 has no caption",
        ),
    ],
)
def test_damage_that_the_sums_do_not_show(
    shards: Path, change: Callable[[str, bytes], bytes | None], sentence: str
) -> None:
    rewrite(shards / "00000.tar", change)
    assert any(sentence in problem for problem in found(shards)), found(shards)


def test_pictures_can_be_left_out(shards: Path) -> None:
    rewrite(shards / "00000.tar", lambda name, data: b"not a picture" if name == "p1.png" else data)
    assert list(verify.problems(verify.Verify(str(shards), pictures=False, threads=1))) == []


def test_no_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no shards"):
        verify.main([str(tmp_path / "nothing")])
