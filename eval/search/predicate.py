"""What a filter may say: a predicate is parsed, and only what is known to be harmless runs.

It may come from anybody who reaches the service. Comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, casts and the
functions listed here pass, of the columns that are there; nothing that reads, writes, repeats or nests queries. It runs
in a database in memory without access to files, on one thread, within limits of memory and, by its caller, of time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from eval.search.columns import ROW
from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.legible import plain

MOST_CHARACTERS = 2000  # of a predicate
MOST_DEEP = 100  # expressions in expressions
MOST_WILD = 3  # % of a pattern with _, or of ILIKE, each of which multiplies the time
NAMED = 30  # columns that a sentence names
CLASSES = {"COMPARISON", "CONJUNCTION", "CONSTANT", "COLUMN_REF", "OPERATOR", "BETWEEN", "CAST", "TYPE", "FUNCTION"}
OPERATORS = {
    *("COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE"),
    *("ARRAY_EXTRACT",),
}
LIKES = {"~~", "!~~", "~~*", "!~~*"}
REGEXPS = {"regexp_matches", "regexp_full_match"}
FUNCTIONS = {
    *LIKES,
    *REGEXPS,
    *("+", "-", "*", "/", "//", "%", "abs", "round", "floor", "ceil", "least", "greatest"),
    *("lower", "upper", "trim", "length", "len", "contains", "starts_with", "ends_with", "prefix", "suffix"),
    *("list_contains", "list_has", "array_contains", "list_has_any", "list_has_all", "list_value", "array_has_any"),
    *("date_part", "year", "month", "day"),
}
TYPES = {
    *("bool", "boolean", "int", "integer", "bigint", "double", "float", "real", "varchar", "text", "string"),
    *("date", "timestamp"),
}
WORDS = {  # of SQL that a predicate is written with; others may be names of columns
    *("all", "and", "any", "as", "between", "case", "cast", "distinct", "else", "end", "false", "from", "in", "is"),
    *("like", "not", "null", "or", "then", "true", "when"),
}
TOKENS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|.""", re.DOTALL)
LIMITS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "256MB",
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "lock_configuration": "true",
}


def checked(predicate: str, columns: Mapping[str, str]) -> tuple[str, list[str]]:
    """(SQL, the columns it reads) for a predicate that may run; `columns`: names by their small letters.

    Raises UserError.
    """
    if not predicate.strip():
        raise UserError("the filter is empty; give one such as: width > 100")
    if len(predicate) > MOST_CHARACTERS:
        raise UserError(f"the filter has {len(predicate):,} characters; at most {MOST_CHARACTERS:,} are read")
    if not predicate.replace("\n", " ").replace("\t", " ").isprintable():
        raise UserError("the filter has characters that cannot be shown; write it without them")
    sql = f"SELECT {ROW} FROM rows WHERE ({quoted(predicate, columns)}\n)"
    tree = _parsed(sql)
    where = tree.pop("where_clause", None)
    ours = _parsed(f"SELECT {ROW} FROM rows WHERE (true)")
    ours.pop("where_clause")
    if _bare(tree) != _bare(ours):
        raise UserError(f"the filter should be one condition, such as width > 100; it is {plain(predicate)}")
    used: dict[str, None] = {}
    for node in _nodes(where):
        _check(node, columns, used)
    return sql, list(used)


def quoted(predicate: str, columns: Mapping[str, str]) -> str:
    """The predicate with double quotes round columns that are words of SQL, such as group.

    >>> quoted("group = 'group' AND NOT x", {"group": "group", "x": "x"})
    '"group" = \\'group\\' AND NOT x'
    """
    words = {name for name in columns if name in _reserved() and name not in WORDS}
    return "".join(f'"{token}"' if token.lower() in words else token for token in TOKENS.findall(predicate))


def _check(node: Mapping[str, Any], columns: Mapping[str, str], used: dict[str, None]) -> None:
    """Raise UserError for an expression that no predicate may hold; note the column it names."""
    kind, name = node["class"], str(node.get("function_name", "")).lower()
    if kind == "COLUMN_REF":
        path = ".".join(map(str, node["column_names"]))
        if path.lower() not in columns:
            known = list(columns.values())
            more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
            guess = did_you_mean(path.replace(".", "_"), known[:NAMED])
            raise UserError(
                f"the filter names \"{plain(path, 60)}\", which is no column (text: 'single quotes'){guess}{more}"
            )
        used[columns[path.lower()]] = None
    elif kind == "FUNCTION" and name not in FUNCTIONS:
        raise UserError(f"a filter cannot use {plain(name, 60)}(){did_you_mean(name, sorted(FUNCTIONS - LIKES))}")
    elif kind not in CLASSES or (kind == "OPERATOR" and node["type"] not in OPERATORS):
        what = plain(node["type"]).lower().replace("_", " ")
        raise UserError(f"a filter is made of conditions such as width > 100 AND style = 'flat', without {what}")
    elif kind == "CAST":
        _check_type(node)
    if name in LIKES | REGEXPS:
        _check_pattern(name, node)


def _check_type(node: Mapping[str, Any]) -> None:
    wanted = str(node["type_expr"]["type_name"] if "type_expr" in node else node["cast_type"]["id"]).lower()
    if wanted not in TYPES:
        raise UserError(f"a filter cannot cast to {plain(wanted, 60)}; choose one of {', '.join(sorted(TYPES))}")


def _check_pattern(name: str, node: Mapping[str, Any]) -> None:
    """Raise UserError for a pattern that is not written out, or whose search would go back and forth without end."""
    given = node["arguments"] if "arguments" in node else node["children"]
    pattern = [one.get("expression", one) for one in given][1] if len(given) == 2 else {}
    if pattern.get("class") != "CONSTANT":
        raise UserError("a filter compares with patterns that are written out, such as caption_en LIKE '%cat%'")
    text = json.dumps(pattern.get("literal") or pattern.get("value"), ensure_ascii=False)
    if name in LIKES and text.count("%") > MOST_WILD and ("*" in name or "_" in text):
        raise UserError(f"a pattern with _, or of ILIKE, may have {MOST_WILD} % at most; it has {text.count('%')}")


def _nodes(tree: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Every expression of a parsed predicate. Raises UserError if they lie too deep in each other."""
    if depth > 3 * MOST_DEEP:
        raise UserError("the filter nests its conditions too deeply; write it with fewer brackets")
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for inner in tree.values():
            yield from _nodes(inner, depth + 1)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _nodes(inner, depth + 1)


def _bare(tree: Any) -> Any:
    """A parsed query without the places of its words."""
    if isinstance(tree, dict):
        return {name: _bare(value) for name, value in tree.items() if not name.startswith("query_location")}
    return [_bare(one) for one in tree] if isinstance(tree, list) else tree


def _parsed(sql: str) -> dict[str, Any]:
    """The one SELECT that DuckDB reads in `sql`, as a tree. Raises UserError for anything else."""
    import duckdb

    cursor = database().cursor()
    try:
        text = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
        tree = json.loads(text)
    except (duckdb.Error, RuntimeError, RecursionError, ValueError) as error:
        raise UserError(f"the filter cannot be read: {said(error)}") from None
    finally:
        cursor.close()
    if tree["error"]:
        raise UserError(f"the filter cannot be read: {said(tree['error_message'])}; write it as: width > 100")
    statements = tree["statements"]
    if len(statements) != 1:
        raise UserError("the filter should be one condition, such as width > 100")
    return dict(statements[0]["node"])


def said(error: object) -> str:
    """The first line of what DuckDB says."""
    return plain(str(error).partition("\n")[0].removeprefix("Parser Error: "))


@cache
def _reserved() -> frozenset[str]:
    rows = database().cursor().execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'")
    return frozenset(name for (name,) in rows.fetchall())


@cache
def database() -> Any:
    """A database in memory that reads and writes nothing else; filters ask it through cursors of their own."""
    import duckdb

    return duckdb.connect(":memory:", config=LIMITS)
