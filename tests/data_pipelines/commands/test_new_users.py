"""What people try first with `vlp shards build`: usual layouts work, and whatever is left out is counted or said."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands.build import build, main
from data_pipelines.commands.reshard import Reshard, reshard
from data_pipelines.remote.fetch import LocalFile
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.tar_index import build as index_of
from data_pipelines.sources.coco_captions import CocoCaptions
from data_pipelines.sources.folder import Folder
from data_pipelines.sources.img2dataset import Img2Dataset
from data_pipelines.sources.parquet import Parquet
from vlp.errors import UserError
from vlp.lock import locked

WriteTar = Callable[..., Path]


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"p{n}.png").write_bytes(png(n))
        (folder / f"p{n}.txt").write_text(f"red {n}")
    return folder


def captions(out: Path) -> list[str]:
    return sorted(sample.text for sample in read_samples(ShardSet.open(str(out))))


def test_keys_that_start_again_in_each_tar_lose_no_picture(
    tmp_path: Path, write_tar: WriteTar, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for tar in range(3):
        files = [
            (f"{n}.{end}", png(tar * 10 + n) if end == "png" else b"%d %d" % (tar, n))
            for n in range(10)
            for end in ("png", "txt")
        ]
        write_tar(tmp_path / "in" / f"{tar}.tar", files)
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert captions(tmp_path / "out") == sorted(f"{tar} {n}" for tar in range(3) for n in range(10))
    assert "20 keys got a number" in capsys.readouterr().out


def test_class_labels_keep_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = ["cat", "dog", "owl"]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), "text": datasets.Value("string")}
    )
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "label": [2, 0, 1], "text": ["a", "b", "c"]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "t.parquet"))
    for source in ("saved", "t.parquet"):
        assert main([str(tmp_path / source), str(tmp_path / "out" / source), "--captions", "en", "label"]) == 0
        assert captions(tmp_path / "out" / source) == names
        assert main([str(tmp_path / source), str(tmp_path / "more" / source)]) == 0
        samples = read_samples(ShardSet.open(str(tmp_path / "more" / source)))
        assert [sample.metadata["label"] for sample in samples] == ["owl", "cat", "dog"]


def test_captions_that_are_no_text_and_links_to_nothing_are_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 6)
    (folder / "p1.txt").write_bytes("un café".encode("latin-1"))
    (folder / "p2.txt").write_bytes(b"a\0b")
    (folder / "p3.json").write_text(r'{"captions": {"en": "\ud83d"}}')
    (folder / "p4.json").write_bytes(b'{"captions": {"en": "caf\xe9"}}')
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    [done] = build(Folder(folder), tmp_path / "out")
    assert done.counts == {"undecodable caption": 4, "unreadable file": 1}
    assert "gone.png: a link to nothing" in done.examples["unreadable file"][0]
    assert captions(tmp_path / "out") == ["red 0", "red 5"]


def test_a_list_and_a_table_with_bytes_that_are_no_text_lose_those_rows_alone(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(3):
        (folder / f"p{n}.png").write_bytes(png(n))
    (folder / "metadata.csv").write_bytes(b"file_name,text\np0.png,one\np1.png,caf\xe9\np2.png,three\n")
    [done] = build(Folder(folder), tmp_path / "listed")
    assert (done.samples, done.counts) == (2, {"undecodable caption": 1})
    texts = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [png(n) for n in range(3)], "text": texts}), tmp_path / "t.parquet")
    [done] = build(Parquet(tmp_path / "t.parquet"), tmp_path / "table")
    assert (done.samples, done.counts) == (2, {"undecodable caption": 1})


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    secret = pictures(tmp_path / "secret", 2)
    folder = pictures(tmp_path / "in", 3)
    (folder / "out.png").symlink_to(secret / "p0.png")
    (folder / "inside.png").symlink_to(folder / "p0.png")
    (folder / "inside.txt").write_text("a link that stays")
    (folder / "deep").symlink_to(secret)
    (folder / "p1.txt").unlink()
    (folder / "p1.txt").symlink_to(secret / "p1.txt")
    [done] = build(Folder(folder), tmp_path / "out")
    assert captions(tmp_path / "out") == ["a link that stays", "red 0", "red 2"]
    assert done.counts == {"unreadable file": 3}
    assert "links are not followed out of it" in " ".join(done.examples["unreadable file"])
    tree = {"images": [{"id": 1, "file_name": "../secret/p0.png"}, {"id": 2, "file_name": "p0.png"}]}
    tree["annotations"] = [{"id": n, "image_id": n, "caption": "x"} for n in (1, 2)]
    (folder / "c.json").write_text(json.dumps(tree))
    [done] = build(CocoCaptions(folder / "c.json"), tmp_path / "coco")
    assert (done.samples, done.counts) == (1, {"unreadable file": 1})


def test_the_same_build_says_that_its_input_changed(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "in", 3), tmp_path / "out"
    [first] = build(Folder(folder), out)
    assert build(Folder(folder), out) == [first]
    pictures(folder, 5)
    with pytest.raises(UserError, match=r"changed since it was begun: it was 6 files .* and is 10 files"):
        build(Folder(folder), out)
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    for count in (1, 2):
        pq.write_table(
            pa.table({"image": [png(n) for n in range(count)], "text": ["x"] * count}), tmp_path / "t.parquet"
        )
        if count == 1:
            build(Parquet(tmp_path / "t.parquet"), tmp_path / "table")
    with pytest.raises(UserError, match="changed since it was begun"):
        build(Parquet(tmp_path / "t.parquet"), tmp_path / "table")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nothing", "there is no picture in"),
        ("mute", r"nothing was left to write .*missing caption: 1"),
        ("zero.tar", r"zero\.tar is empty \(0 bytes\)"),
        ("packed.tar", r"packed\.tar is compressed \(gzip\)"),
        ("packed", r"the tars in the folder .* a\.tar\.gz, are compressed"),
        ("bad.parquet", "cannot be read as Parquet"),
        ("gone/pictures", "there is nothing at"),
        ("gone.tar", "there is nothing at"),
        (
            "columns.parquet",
            r'has no column "text" or "caption"; it has: image, says: name it with --captions en COLUMN',
        ),
        ("coco.json", r"none of the pictures .*name their folder with --images"),
    ],
)
def test_a_build_that_is_refused_says_why_and_leaves_nothing(tmp_path: Path, source: str, sentence: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "mute").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/a.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(99))
    (tmp_path / "mute/a.png").write_bytes(png())
    (tmp_path / "zero.tar").touch()
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b\x08" + bytes(99))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"image": [png()], "says": ["x"]}), tmp_path / "columns.parquet")
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=sentence):
        main([str(tmp_path / source), str(tmp_path / "new/folder/out")])
    assert not (tmp_path / "new").exists()


def test_usual_layouts_work(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures(tmp_path / "coco/val2017", 1)
    tree = {"images": [{"id": 1, "file_name": "p0.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}
    (tmp_path / "coco/annotations").mkdir()
    for where in ("coco/captions_val2017.json", "coco/annotations/captions_val2017.json"):
        (tmp_path / where).write_text(json.dumps(tree))
        assert main([str(tmp_path / where), str(tmp_path / "out" / where)]) == 0
        assert captions(tmp_path / "out" / where) == ["x"]
    pq.write_table(pa.table({"image": [png()], "caption": ["said"]}), tmp_path / "t.parquet")
    assert main([str(tmp_path / "t.parquet"), str(tmp_path / "out/table")]) == 0
    assert captions(tmp_path / "out/table") == ["said"]
    assert main(["folder", str(pictures(tmp_path / "p")), str(tmp_path / "out/kind"), "--shard-size", "2"]) == 0
    assert captions(tmp_path / "out/kind") == ["red 0", "red 1", "red 2"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "in"), tmp_path / "out"
    with locked(out), pytest.raises(UserError, match=rf"is being written by another program \(process {os.getpid()}"):
        build(Folder(folder), out)
    assert not list(out.glob("*.tar"))
    build(Folder(folder), out)
    with locked(tmp_path / "new"), pytest.raises(UserError, match="is being written by another program"):
        reshard(Reshard(str(out), tmp_path / "new"))
    reshard(Reshard(str(out), tmp_path / "new"))
    assert not list(tmp_path.rglob(".lock"))


def test_a_forged_index_writes_no_name_that_leaves_the_folder(tmp_path: Path, write_tar: WriteTar) -> None:
    from dataclasses import replace

    files = [
        (f"{key}.{end}", png() if end == "png" else b"x") for key in ("../../evil", "good") for end in ("png", "txt")
    ]
    path = write_tar(tmp_path / "a.tar", files)
    index = index_of(LocalFile(str(path)))
    replace(index, keys=("../../evil",)).save(path.with_suffix(".index"))
    for work in (lambda out: reshard(Reshard(str(path), out)), lambda out: build(Img2Dataset(str(path)), out)):
        work(tmp_path / "out")
        for tar in (tmp_path / "out").glob("*.tar"):
            with tarfile.open(tar) as written:
                assert {name.split(".")[0] for name in written.getnames()} == {"good"}
            tar.unlink()
        (tmp_path / "out/manifest.json").unlink()
