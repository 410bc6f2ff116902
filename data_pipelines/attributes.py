"""Words of which one excludes the other, by what they say of a thing, in English and Chinese."""

from __future__ import annotations

TONES = {
    "light skin tone": "较浅肤色",
    "medium-light skin tone": "中等-浅肤色",
    "medium skin tone": "中等肤色",
    "medium-dark skin tone": "中等-深肤色",
    "dark skin tone": "较深肤色",
}
"""English -> Chinese, as CLDR's annotations have them"""
SEXES = {"en": (("man", "woman"), ("men", "women")), "zh": (("男", "女"),)}

FAMILIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "colour": (
        ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"),
        ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色", "黑色", "白色", "灰色"),
    ),
    "size": (
        ("big", "small"),
        ("large", "little"),
        ("huge", "tiny"),
        ("tall", "short"),
        ("thick", "thin"),
        ("wide", "narrow"),
        ("大型", "小型"),
        ("巨大", "微小"),
        ("大号", "小号"),
        ("大的", "小的"),
    ),
    "tone": (tuple(TONES), tuple(TONES.values())),
    "sex": (
        *SEXES["en"],
        ("boy", "girl"),
        ("boys", "girls"),
        ("he", "she"),
        ("his", "her"),
        ("男人", "女人"),
        ("男孩", "女孩"),
        ("男子", "女子"),
        ("男士", "女士"),
    ),
    "place": (
        ("left", "right"),
        ("above", "below"),
        ("inside", "outside"),
        ("up", "down"),
        ("左", "右"),
        ("上方", "下方"),
        ("上面", "下面"),
        ("里面", "外面"),
        ("向上", "向下"),
    ),
    "state": (
        ("open", "closed"),
        ("full", "empty"),
        ("old", "young"),
        ("wet", "dry"),
        ("hot", "cold"),
        ("happy", "sad"),
        ("打开", "关闭"),
        ("开心", "伤心"),
    ),
    "material": (
        ("wooden", "metal", "plastic", "glass", "stone", "paper"),
        ("木制", "金属", "塑料", "玻璃", "石头", "纸质"),
    ),
}
"""family -> sets of words; of a set only one can be true of a thing"""
