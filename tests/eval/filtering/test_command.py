"""The command: what it writes, what `vlp shards reshard --keep` makes of it, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.sample import Sample
from data_pipelines.shards import decision, manifest
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.embed import embed
from eval.embeddings.store import EmbeddingStore, file_of, finish_part
from eval.filtering import command
from eval.filtering.command import filtered
from eval.filtering.rules import Rule
from eval.filtering.rules.clip_score import ClipScore
from eval.filtering.rules.near_duplicates import NearDuplicates
from eval.filtering.words import rules_of
from vlp.cli import run
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.models.release import Release

SCORE = ["clip_score", "share=0.75"]
BOTH = [*SCORE, "near_duplicates", "eps=0.1", "clusters=3"]


@pytest.fixture(scope="module")
def store(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings") / "store"
    embed(release, str(shards), folder)
    return folder


@pytest.fixture(scope="module")
def done(shards: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> decision.Decision:
    out = tmp_path_factory.mktemp("filtered") / "out"
    assert run(["shards", "filter", str(shards), str(store), str(out), "--rules", *BOTH]) == 0
    return decision.Decision.open(out)


def keys_of(spec: Path) -> list[str]:
    return [sample.key for sample in read_samples(ShardSet.open(str(spec)))]


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [row for path in sorted((folder / "samples").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_sample_is_decided_and_counted_by_reason(done: decision.Decision, shards: Path, store: Path) -> None:
    rows = rows_of(done.folder)
    assert [row["key"] for row in rows] == keys_of(shards)
    assert Counter(row["reason"] for row in rows if row["reason"]) == Counter(done.counts)
    assert done.counts["low CLIP score"] == 6  # a quarter of 24
    assert done.counts["near-duplicate"] > 0
    assert all(row["stays"] == (row["reason"] == "") for row in rows)
    opened = EmbeddingStore.open(store)
    image, text = (np.concatenate([get(p) for p in opened.parts]) for get in (opened.images, opened.texts))
    scores = (image * text).sum(axis=1)
    assert np.allclose([row["clip_score"] for row in rows], scores, atol=1e-5)
    low = np.argsort(scores, kind="stable")[:6]
    assert {rows[n]["reason"] for n in low} == {"low CLIP score"}
    vectors = {f"{row['shard']}/{row['key']}": vector for row, vector in zip(rows, image, strict=True)}
    stay = {f"{row['shard']}/{row['key']}" for row in rows if row["stays"]}
    for row in rows:
        if row["reason"] == "near-duplicate":
            assert row["like"] in stay
            assert vectors[f"{row['shard']}/{row['key']}"] @ vectors[row["like"]] >= 0.9 - 1e-5  # type: ignore[index]
    assert [rule["rule"] for rule in done.about["rules"]] == ["clip_score", "near_duplicates"]
    assert done.about["rules"][1]["stay"] == len(stay) == done.samples - done.left_out
    assert sorted(path.name for path in done.folder.iterdir()) == ["decision.json", "examples.html", "samples"]


def test_the_page_shows_pairs_by_reason(done: decision.Decision) -> None:
    page = (done.folder / "examples.html").read_text(encoding="utf-8")
    for said in ("low CLIP score", "near-duplicate", "cosine of picture and caption", "clip_score", "only just stay"):
        assert said in page
    for row in rows_of(done.folder):
        if row["reason"]:
            assert str(row["key"]) in page
    assert page.count("data:image/png") >= done.left_out
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("seed", [None, 1])
def test_reshard_writes_those_that_stay(
    done: decision.Decision, shards: Path, tmp_path: Path, seed: int | None
) -> None:
    words = ["shards", "reshard", str(shards), str(tmp_path / "new"), "--keep", str(done.folder), "--shard-size", "5"]
    assert run([*words, *(["--shuffle", str(seed)] if seed is not None else [])]) == 0
    made, stay = manifest.read(tmp_path / "new"), [row["key"] for row in rows_of(done.folder) if row["stays"]]
    keys = keys_of(tmp_path / "new")
    assert sorted(keys) == sorted(stay)  # type: ignore[type-var]
    assert (keys == stay) == (seed is None)
    assert made.counts == done.counts
    assert all(len(made.examples[reason]) == count for reason, count in done.counts.items())
    assert made.about["filtered"]["rules"] == done.about["rules"]
    assert run(["shards", "verify", str(tmp_path / "new")]) == 0


def test_reshard_refuses_a_decision_on_other_shards(
    done: decision.Decision, tmp_path: Path, write: Callable[..., Path], samples: list[Sample]
) -> None:
    fewer = write(tmp_path / "fewer", samples[:18])
    renamed = write(tmp_path / "renamed", [Sample(f"x{s.key}", s.image, "png", s.captions) for s in samples])
    for shards, said in ((fewer, "these are other shards"), (renamed, "decided on other samples than shard 0")):
        with pytest.raises(UserError, match=said):
            run(["shards", "reshard", str(shards), str(tmp_path / "new"), "--keep", str(done.folder)])
        assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"there is no decision.json .*run `vlp shards filter` to its end"):
        run(["shards", "reshard", str(fewer), str(tmp_path / "new"), "--keep", str(tmp_path)])


def test_a_finished_folder_is_left_and_another_command_refused(
    done: decision.Decision, shards: Path, store: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    assert filtered(str(shards), store, done.folder, rules_of(BOTH)) == done
    with pytest.raises(UserError, match="already holds another decision"):
        filtered(str(shards), store, done.folder, rules_of(SCORE))
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before


def test_an_interrupted_filter_goes_on(
    done: decision.Decision, shards: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after its first rule, whose results are not made again; rows are written shard by shard."""
    out = tmp_path / "out"
    monkeypatch.setattr(command, "NAMED_AT_ONCE", 10)
    with monkeypatch.context() as patch:
        patch.setattr(NearDuplicates, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            filtered(str(shards), store, out, rules_of(BOTH))
    with pytest.raises(UserError, match="beginning of another filter"):
        filtered(str(shards), store, out, rules_of(SCORE))
    monkeypatch.setattr(ClipScore, "judge", lambda *_: pytest.fail("made again"))
    again = filtered(str(shards), store, out, rules_of(BOTH))
    assert (again.counts, again.about) == (done.counts, done.about)
    assert rows_of(out) == rows_of(done.folder)


def test_a_picture_that_cannot_be_read_has_no_vector_and_is_counted(
    release: Release, tmp_path: Path, write: Callable[..., Path], samples: list[Sample]
) -> None:
    broken = [*samples[:8], Sample("broken", b"\x89PNG no more", "png", {"en": "x"})]
    shards = write(tmp_path / "shards", broken)
    embed(release, str(shards), tmp_path / "store")
    made = filtered(str(shards), tmp_path / "store", tmp_path / "out", rules_of(["clip_score", "least=-1"]))
    assert made.counts == {"no vector": 1}
    assert rows_of(tmp_path / "out")[8]["reason"] == "no vector"


def test_embeddings_of_other_shards_are_refused(
    store: Path, tmp_path: Path, write: Callable[..., Path], samples: list[Sample], embeddings: Callable[..., Path]
) -> None:
    other = write(tmp_path / "other", samples[:20])
    cases = [(store, "was embedded from other shards than")]
    vectors = np.eye(20, 32, dtype=np.float32)
    some = embeddings(tmp_path / "some", samples[:15], vectors[:15])
    cases.append((some, r"no vector for 5 of the 20 samples .* first for 00001.tar/\S+: .*--skip-missing"))
    cases.append((embeddings(tmp_path / "none", samples[20:], vectors[:4]), "no vector for any of the 20 samples"))
    twice = embeddings(tmp_path / "twice", [*samples[:19], samples[0]], vectors)
    cases.append((twice, "several rows of .* have the same key"))
    for folder, said in cases:
        with pytest.raises(UserError, match=said):
            filtered(str(other), folder, tmp_path / "out", rules_of(["near_duplicates"]))
        assert not (tmp_path / "out").exists()
    made = filtered(str(other), some, tmp_path / "out", rules_of(["near_duplicates"]), skip_missing=True)
    assert made.counts == {"no vector": 5}


def test_what_does_not_fit_the_rules_is_refused(
    shards: Path, store: Path, tmp_path: Path, samples: list[Sample], embeddings: Callable[..., Path]
) -> None:
    vectors = np.eye(24, 32, dtype=np.float32)
    bare = embeddings(tmp_path / "bare", samples, vectors)
    other = embeddings(tmp_path / "other", samples, vectors, vectors, of=shards, model="o" * 64)
    wordless = embeddings(tmp_path / "wordless", samples, vectors, vectors)
    narrow = embeddings(tmp_path / "narrow", samples, vectors[:, :24])
    broken = shutil.copytree(store, tmp_path / "broken")
    np.save(file_of(broken, "img_emb", "1"), np.full((9, 32), np.nan, np.float32))
    finish_part(broken, "1")
    cases: list[tuple[Path, list[str], str]] = [
        (bare, ["clip_score", "least=0.2"], r"no vectors of captions \(text_emb\)"),
        (store, ["clip_score"], "needs a bound"),
        (store, ["clip_score", "least=0.1", "by=language"], "only a share is taken by"),
        (wordless, ["clip_score", "share=0.5", "by=language"], "have no column captions, so there is no language to"),
        (store, ["clip_score", "least=1"], "nothing stays: the rule clip_score leaves out all of the 24 samples"),
        (store, ["reference"], "needs like=FOLDER"),
        (store, ["reference", f"like={other}"], "vectors of two models cannot be compared"),
        (store, ["decontaminate"], "needs against=TEST"),
        (store, ["decontaminate", f"against={other}"], "vectors of two models cannot be compared"),
        (store, ["decontaminate", f"against={narrow}"], "holds vectors of width 24"),
        (store, ["decontaminate", f"against={shards}", "hashes=false"], "no vectors to compare"),
        (store, ["decontaminate", "against=nowhere"], "no shards at"),
        (broken, ["near_duplicates"], "NaN, infinite or zero"),
        (tmp_path, ["near_duplicates"], "holds no embeddings"),
    ]
    for folder, words, said in cases:
        with pytest.raises(UserError, match=said):
            filtered(str(shards), folder, tmp_path / "out", rules_of(words))
        assert not (tmp_path / "out").exists(), words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--rules names no rule; known: clip_score, decontaminate, near_duplicates, reference"),
        (["clip_scor"], 'did you mean "clip_score"'),
        (["share=0.5"], "comes before any rule; name one first"),
        (["clip_score", "shar=0.5"], 'did you mean "share"'),
        (["clip_score", "share=1.5"], r'"rules.share" is 1.5, but it should be more than 0 and at most 1'),
        (["clip_score", "least=2"], "from -1 to 1"),
        (["clip_score", "share=much"], "rules.share"),
        (["near_duplicates", "eps=1"], "0 or more and below 1"),
        (["near_duplicates", "keep=all"], "far"),
        (["nowhere.toml"], "no preset file"),
    ],
)
def test_rules_that_are_none_are_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        rules_of(words)


def test_the_help_names_every_rule_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["shards", "filter", "--help"])
    said = capsys.readouterr().out
    for name in component_names(Rule):
        assert f"\n{name}: " in said
        assert all(f"  {field.name}=" in said for field in fields(component(Rule, name)))


def test_a_shard_that_is_gone_is_one_sentence(shards: Path, store: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(shards, tmp_path / "gone")
    (gone / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001.tar cannot be read .*check it with `vlp shards verify`"):
        filtered(str(gone), store, tmp_path / "out", rules_of(SCORE))
    assert not (tmp_path / "out").exists()


def test_rules_come_from_files_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[rules.first]\nname = "clip_score"\nshare = 0.5\n\n[rules.near_duplicates]\neps = 0.1\n')
    rules = rules_of([str(file), "clip_score", "least=0.1", "decontaminate", "against=a", "against=b"])
    assert [one.name for one in rules] == ["first", "near_duplicates", "clip_score", "decontaminate"]
    assert rules[0].rule == ClipScore(share=0.5)
    assert rules[3].tree()["against"] == ["a", "b"]
    assert [one.name for one in rules_of(["clip_score", "least=0", *SCORE])] == ["clip_score", "clip_score_2"]
    file.write_text('[rules.like]\nname = "clip_score"\nleast = 0.5\n')
    with pytest.raises(UserError, match='a rule cannot be called "like"'):
        rules_of([str(file)])
    (tmp_path / "none.toml").write_text("a = 1\n")
    with pytest.raises(UserError, match=r"has no tables \[rules.NAME\]"):
        rules_of([str(tmp_path / "none.toml")])


def test_a_folder_with_something_else_is_left(shards: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        filtered(str(shards), store, tmp_path, rules_of(SCORE))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_decision_json_that_is_damaged_is_one_sentence(tmp_path: Path, done: decision.Decision) -> None:
    tree = json.loads((done.folder / "decision.json").read_text())
    for text in ("[", "{}", json.dumps(tree | {"format": "x"}), json.dumps(tree | {"shards": 3})):
        (tmp_path / "decision.json").write_text(text)
        with pytest.raises(UserError, match=r"is damaged|has format"):
            decision.Decision.open(tmp_path)
