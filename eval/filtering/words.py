"""Rules as a command line or a file names them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from eval.filtering.rules import Rule
from vlp.config import build, component, component_name, did_you_mean, read_preset, to_tree
from vlp.config.components import component_names
from vlp.config.flags_help import field_docs, shown, table
from vlp.errors import UserError
from vlp.legible import plain

COLUMNS = ("shard", "key", "stays", "reason", "like")
"""Columns of what is written; a rule adds one of its own name"""


@dataclass(frozen=True)
class Named:
    """A rule, by a name that no other one of a filter has."""

    name: str
    rule: Rule

    def tree(self) -> dict[str, Any]:
        """As a manifest has it."""
        return {"name": component_name(self.rule, Rule), **to_tree(self.rule)}


def rules_of(words: Sequence[str]) -> list[Named]:
    """The rules that words name: `clip_score share=0.3 near_duplicates eps=0.05`, or files with tables [rules.NAME].

    A key that is given again adds to a list. Raises UserError for an unknown rule or setting, or a bad value.
    """
    trees, labels = list[dict[str, Any]](), dict[int, str]()
    for word in words:
        key, sign, value = word.partition("=")
        if sign and trees:
            _set(trees[-1], key.strip(), value)
        elif sign:
            raise UserError(f'"{plain(word)}" comes before any rule; name one first, such as clip_score {plain(word)}')
        elif word.endswith(".toml"):
            tables = read_preset(word).get("rules")
            if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
                raise UserError(f"{word} has no tables [rules.NAME]; write one for each rule")
            trees += [{"name": name, **one} for name, one in tables.items()]
            labels |= {len(trees) - len(tables) + n: name for n, name in enumerate(tables)}
        else:
            trees.append({"name": word})
    if not trees:
        raise UserError(f"--rules names no rule; known: {', '.join(component_names(Rule))}")
    rules = list[Named]()
    for number, tree in enumerate(trees):
        label = labels.get(number, str(tree["name"]).rpartition(".")[2])
        if label in COLUMNS:
            raise UserError(f'a rule cannot be called "{label}", which is a column of what is written; rename it')
        taken = {one.name for one in rules}
        names = (label, *(f"{label}_{n}" for n in range(2, len(trees) + 2)))
        rules.append(Named(next(name for name in names if name not in taken), build(Rule, tree, "rules")))
    return rules


def _set(tree: dict[str, Any], key: str, value: str) -> None:
    """Set what `key=value` says, as TOML would read it; bare words are strings."""
    known = [one.name for one in fields(component(Rule, tree["name"]))]
    if key not in known:
        raise UserError(f'the rule {plain(tree["name"])} has no setting "{plain(key)}"{did_you_mean(key, known)}')
    try:
        read: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        read = value
    before = tree.get(key)
    tree[key] = read if before is None else [*(before if isinstance(before, list) else [before]), read]


def settings_help() -> str:
    """Every rule with its settings, for --help."""
    lines = ["The rules, each with its settings and what they are if nothing is said:"]
    for name in component_names(Rule):
        kind = component(Rule, name)
        docs = field_docs(kind)
        lines += ["", f"{name}: {(kind.__doc__ or '').splitlines()[0]}"]
        lines += table((f"{one.name}=", shown(one.default), docs.get(one.name, "")) for one in fields(kind))
    return "\n".join(lines) + "\n"
