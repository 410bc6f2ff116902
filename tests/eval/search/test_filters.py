"""Predicates give the rows that Python's own conditions give, and nothing else can be done with them."""

from __future__ import annotations

import doctest
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.search import predicate
from eval.search.columns import write_columns
from eval.search.filters import KEPT, Filters
from vlp.errors import UserError

N = 1000
ROWS: list[dict[str, Any]] = [
    {
        "style": ("flat", "3d", "sketch's")[i % 3],
        "width": i % 100,
        "group": f"group {i % 7}",
        "tags": {"en": ["red", "round", "small"][: i % 4]},
        "score": None if i % 5 == 0 else i / 10,
        "taken": f"20{i % 25:02d}-0{1 + i % 9}-15",
        "new": i % 2 == 0,
        "aspect ratio": 1.5,
    }
    for i in range(N)
]


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Filters:
    folder = tmp_path_factory.mktemp("filters")
    captions = [json.dumps({"en": f"picture {i}", "zh": f"图 {i}"}, ensure_ascii=False) for i in range(N)]
    known = [json.dumps(row) for row in ROWS]
    keys = [f"k{i}" for i in range(N)]
    table = {"key": keys, "captions": captions, "shard": ["/a/b/c.tar"] * N, "metadata": known}
    pq.write_table(pa.table(table), folder / "rows.parquet", row_group_size=128)
    write_columns(folder)
    return Filters(folder)


def test_docstring_examples() -> None:
    assert doctest.testmod(predicate).failed == 0


CASES: dict[str, Callable[[int, dict[str, Any]], bool]] = {
    "style = 'flat' AND width > 10": lambda i, r: r["style"] == "flat" and r["width"] > 10,
    "style = 'sketch''s' or not width between 3 and 97": lambda i, r: i % 3 == 2 or not 3 <= r["width"] <= 97,
    "group IN ('group 1', 'group 2') AND STYLE <> '3d'": lambda i, r: i % 7 in (1, 2) and r["style"] != "3d",
    "list_contains(tags_en, 'round')": lambda i, r: "round" in r["tags"]["en"],
    "'small' in tags_en and len(tags_en) >= 1": lambda i, r: "small" in r["tags"]["en"],
    "score IS NULL": lambda i, r: r["score"] is None,
    "score > 50 and coalesce(score, 0) < 60.5": lambda i, r: r["score"] is not None and 50 < r["score"] < 60.5,
    "taken::date >= date '2020-01-01'": lambda i, r: r["taken"] >= "2020-01-01",
    "year(cast(taken as date)) = 2003": lambda i, r: r["taken"].startswith("2003"),
    "caption_en LIKE '%99' -- the last ones": lambda i, r: str(i).endswith("99"),
    "caption_zh = '图 7'": lambda i, r: i == 7,
    "caption_en ILIKE 'PICTURE 1_'": lambda i, r: 10 <= i < 20,
    "regexp_matches(key, '^k[12]0+$')": lambda i, r: i in (10, 20, 100, 200),
    "new and \"aspect ratio\" > 1 and width % 2 = 0 and lower(style) in ('3D', 'flat')": lambda i, r: (
        r["new"] and r["style"] == "flat"
    ),
    "shard = 'b/c.tar' and key = 'k5'": lambda i, r: i == 5,
    "false": lambda i, r: False,
}  # fmt: skip


@pytest.mark.parametrize("where", CASES)
def test_a_predicate_is_true_of_the_rows_of_which_it_is_true(filters: Filters, where: str) -> None:
    assert filters.ids(where).tolist() == [i for i, row in enumerate(ROWS) if CASES[where](i, row)]


@pytest.mark.parametrize(
    "where, sentence",
    [
        ("", "is empty"),
        ("widht > 3", 'names "widht", which is no column .*; did you mean "width"'),
        ("tags.en = 'x'", 'did you mean "tags_en"'),
        ('style = "flat"', 'names "flat", which is no column .*single quotes.*; known: '),
        ("style = 'flat' AND", "cannot be read"),
        ("width = 'many'", "cannot be answered"),
        ("1; DROP TABLE rows", "cannot be read"),
        ("1=1) UNION SELECT 1 FROM (SELECT 2", "should be one condition"),
        ("true) GROUP BY (1", "cannot be read"),
        ("true) ORDER BY (1", "should be one condition"),
        ("width > (SELECT 1)", "without subquery"),
        ("EXISTS (SELECT 1 FROM read_text('/etc/passwd'))", "without subquery"),
        ("width IN (FROM rows)", "cannot be read|without subquery"),
        ("read_text('/etc/passwd') = ''", r"cannot use read_text\(\)"),
        ("sum(width) > 1", r"cannot use sum\(\)"),
        ("row_number() OVER () < 3", "without window"),
        ("repeat('x', 1000000000) = 'x'", r"cannot use repeat\(\)"),
        ("getvariable('x') = 1", "cannot use getvariable"),
        ("list_filter(tags_en, x -> x = 'a') = []", "cannot use list_filter|without lambda"),
        ("width = ?", "without value parameter"),
        ("COLUMNS(*) > 1", "without star"),
        ("#1 = 1", "without positional reference"),
        ("__row__ < 5", 'names "__row__"'),
        ("key LIKE style", "written out"),
        ("key LIKE '%_%_%_%_%_x'", "may have 3 % at most"),
        ("key ILIKE '%a%a%a%b'", "may have 3 % at most"),
        ("CAST(key AS blob) = 'x'", "cannot cast to blob"),
        ("CAST(key AS struct(a int)) IS NULL", "cannot cast|cannot be read"),
        ("not " * 400 + "new", "too deeply"),
        ("x" * 3000, "has 3,000 characters; at most 2,000"),
        ("width > 1\0", "cannot be shown"),
        ("width > '\ud800'", "cannot be shown"),
        ("\u202ewidth > 1", "cannot be shown"),
    ],
    ids=lambda text: text[:30].encode("unicode_escape").decode(),
)
def test_what_is_no_harmless_condition_is_one_sentence(filters: Filters, where: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        filters.ids(where)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_any_text_is_rows_or_one_sentence(filters: Filters, tmp_path: Path) -> None:
    """Words of SQL in any order: no other error, nothing that lasts, no file."""
    words = st.sampled_from(
        [
            *(
                "width",
                "style",
                "tags_en",
                "new",
                "group",
                "score",
                "'flat'",
                "'%a%'",
                "1",
                "2.5",
                "NULL",
                "true",
                "[1]",
            ),
            *(
                "=",
                "<",
                "<>",
                "+",
                "-",
                "*",
                "/",
                "%",
                "||",
                "::",
                "(",
                ")",
                "(",
                ")",
                ",",
                "[",
                "]",
                ";",
                "--",
                "/*",
                ".",
            ),
            *("AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "CASE", "WHEN", "THEN", "END", "CAST", "AS"),
            *("date", "int", "SELECT", "FROM", "UNION", "rows", "WITH", "COPY", "TO", "ATTACH", "PRAGMA", "INSTALL"),
            *("lower(", "abs(", "read_csv(", "glob(", "range(", "len(", "list_value(", "regexp_matches(", "x ->", "$1"),
            *(f"'{tmp_path}/x'", "OVER", "FILTER", "DISTINCT", "ORDER BY", "LIMIT", "{'a': 1}", "COLLATE", "INTERVAL"),
        ]
    )

    sentences: list[str] = []

    @given(st.lists(words, max_size=12).map(" ".join) | st.text(max_size=40))
    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(where: str) -> None:
        start = time.perf_counter()
        try:
            ids = filters.ids(where)
            assert ids.dtype == np.int64
            assert (np.diff(ids) > 0).all()
        except UserError as error:
            sentences.append(str(error))
        assert time.perf_counter() - start < 5

    ask()
    assert not any("\n" in sentence for sentence in sentences)
    assert not list(tmp_path.iterdir())


def test_a_filter_that_takes_too_long_is_stopped(filters: Filters) -> None:
    with pytest.raises(UserError, match="longer than 0 seconds"):
        filters.ids("regexp_matches(caption_en, '(a|b|c)*(1|2|3)')", seconds=0)
    assert len(filters.ids("width >= 0")) == N  # and the next one is answered


def test_the_last_answers_are_kept(filters: Filters) -> None:
    first = filters.ids("width = 0")
    assert filters.ids("width = 0") is first
    for n in range(KEPT):
        filters.ids(f"width = {n + 1}")
    assert filters.ids("width = 0") is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_columns_and_some_of_their_values_are_shown(filters: Filters) -> None:
    assert filters.columns()["tags_en"] == "list of text"
    assert {filters.columns()[name] for name in ("width", "score", "new", "key")} == {
        *("integer", "number", "boolean", "text")
    }
    shown = filters.examples()
    assert shown["style"] == ["'flat'", "'3d'", "'sketch''s'"]
    assert shown["tags_en"] == ["'red'", "'round'", "'small'"]
    assert shown["new"] == ["true", "false"]
