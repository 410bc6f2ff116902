"""Presets, flags and their record: what a person types is what the run does, and a slip of the pen is named."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from vlp import config
from vlp.errors import UserError
from vlp.models import Model, TextTower
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """a rate"""
    sides: tuple[int, int] = (1, 2)
    """two sides"""
    path: Path | None = None
    """a path"""


@dataclass(frozen=True)
class Outer:
    seed: int = 0
    """a seed"""
    inner: Inner = field(default_factory=Inner)
    """a table"""
    tower: TextTower = field(default_factory=Transformer)
    """a component"""
    weights: dict[str, float] = field(default_factory=dict)
    """free keys"""


@dataclass(frozen=True)
class Towers:
    towers: dict[str, TextTower] = field(default_factory=dict)
    """components by names of the user's own"""
    seed: int = 0
    """a seed"""
    threads: Annotated[int, config.MAY_CHANGE] = 1
    """how fast, not what"""


def parse(*argv: str) -> Outer:
    return config.parse(Outer, argv, "prog", "test")


def test_dump_and_build_are_inverse() -> None:
    value = Outer(3, Inner(1.5, (4, 5), Path("x/y")), Transformer(hidden=64, heads=1), {"en": 0.5})
    assert config.build(Outer, tomllib.loads(config.dump(value))) == value
    assert config.build(Outer, tomllib.loads(config.dump(Outer()))) == Outer()


def test_a_component_writes_its_name() -> None:
    assert tomllib.loads(config.dump(TwoTowers(), Model))["name"] == "two_towers"


def test_a_flag_adds_an_entry_to_a_table(tmp_path: Path) -> None:
    preset = tmp_path / "one.toml"
    preset.write_text("[weights]\nen = 1.0\n")
    got = parse(str(preset), "--weights.fr", "2", "--weights.tags.zh-Hant=0.5", "--weights.en", "0")
    assert got.weights == {"en": 0.0, "fr": 2.0, "tags.zh-Hant": 0.5}


def test_a_table_of_components_is_built_by_name_and_written_back() -> None:
    tree = {"towers": {"a": {"name": "transformer", "layers": 2}, "b": {"name": "bag"}}}
    value = config.build(Towers, tree)
    assert isinstance(value.towers["a"], Transformer)
    assert value.towers["a"].layers == 2
    assert config.build(Towers, tomllib.loads(config.dump(value))) == value


def test_what_may_change_is_no_part_of_the_identity() -> None:
    value = Towers()
    assert config.identity(value) == {"towers": {}, "seed": 0}
    assert config.to_tree(value)["threads"] == 1


def test_presets_then_flags(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('seed = 1\n[inner]\nrate = 2\n[tower]\nname = "transformer"\nlayers = 7\n')
    two.write_text("[inner]\nsides = [8, 9]\n")
    got = parse(str(one), str(two), "--seed", "5", "--tower.hidden", "96")
    assert got == Outer(5, Inner(2.0, (8, 9)), Transformer(hidden=96, layers=7))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("sed = 1", 'unknown key "sed"; did you mean "seed"?'),
        ("[inner]\nrat = 1", 'unknown key "inner.rat"; did you mean "rate"?'),
        ("seed = 1.5", '"seed" is 1.5, but it should be int'),
        ("inner = 3", '"inner" is 3, but it should be a table of keys'),
        ('[tower]\nname = "transfomer"', 'no texttower is called "transfomer"; did you mean "transformer"?'),
        ("seed = = 1", "is not valid TOML"),
    ],
)
def test_bad_presets_get_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        parse(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value).strip() or "TOML" in sentence


def test_unknown_preset_is_named_with_a_near_one() -> None:
    with pytest.raises(UserError, match=r'no preset is called "dmo"; did you mean "demo"\?'):
        parse("dmo")


def test_naming_another_component_drops_the_old_ones_keys() -> None:
    assert config.merge({"name": "a", "x": 1}, {"name": "b"}) == {"name": "b"}
    assert config.merge({"name": "a", "x": 1}, {"y": 2}) == {"name": "a", "x": 1, "y": 2}


def test_help_needs_no_torch() -> None:
    code = "import sys; from vlp import cli; cli.run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_unknown_command_is_one_line_and_status_2() -> None:
    done = subprocess.run([sys.executable, "-m", "vlp.cli", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: no command is called "trian"; did you mean "train"?'
