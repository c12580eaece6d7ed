"""The ten garments of Fashion-MNIST, in the order of its labels: words, and a few facts each."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Garment:
    """One kind of thing. `facts` are (relation, object); `hidden` are aliases no caption uses.

    A hidden alias has no character that only the other words for this thing have: it cannot be
    guessed from the captions, only looked up in the graph. For 裤子 there is none: every everyday
    word for trousers has 裤 in it.
    """

    code: str
    name: str
    counted: str
    aliases: tuple[str, ...]
    hidden: tuple[str, ...]
    category: str
    facts: tuple[tuple[str, str], ...]


GARMENTS = (
    Garment(
        *("t-shirt", "T恤", "一件", ("短袖衫",), ("文化衫",), "上装"),
        facts=(("穿在", "上身"), ("季节", "夏季"), ("材质", "棉布"), ("部件", "圆领")),
    ),
    Garment(
        *("trousers", "裤子", "一条", ("长裤",), (), "下装"),
        facts=(("穿在", "腿部"), ("季节", "四季"), ("材质", "牛仔布"), ("部件", "裤腿")),
    ),
    Garment(
        *("pullover", "套头衫", "一件", ("卫衣",), ("毛衣",), "上装"),
        facts=(("穿在", "上身"), ("季节", "秋季"), ("材质", "羊毛"), ("部件", "袖子")),
    ),
    Garment(
        *("dress", "连衣裙", "一条", ("裙子",), ("布拉吉",), "裙装"),
        facts=(("穿在", "全身"), ("季节", "夏季"), ("材质", "雪纺"), ("部件", "裙摆")),
    ),
    Garment(
        *("coat", "外套", "一件", ("大衣",), ("夹克",), "上装"),
        facts=(("穿在", "上身"), ("季节", "冬季"), ("材质", "呢料"), ("部件", "拉链")),
    ),
    Garment(
        *("sandal", "凉鞋", "一只", ("露趾鞋",), ("人字拖",), "鞋类"),
        facts=(("穿在", "脚部"), ("季节", "夏季"), ("材质", "皮革"), ("部件", "鞋带")),
    ),
    Garment(
        *("shirt", "衬衫", "一件", ("衬衣",), ("褂子",), "上装"),
        facts=(("穿在", "上身"), ("季节", "春季"), ("材质", "棉布"), ("部件", "纽扣")),
    ),
    Garment(
        *("sneaker", "运动鞋", "一只", ("跑步鞋",), ("球鞋",), "鞋类"),
        facts=(("穿在", "脚部"), ("季节", "四季"), ("材质", "网布"), ("部件", "橡胶鞋底")),
    ),
    Garment(
        *("bag", "提包", "一个", ("挎包",), ("手袋",), "箱包"),
        facts=(("拿在", "手上"), ("季节", "四季"), ("材质", "皮革"), ("部件", "提手")),
    ),
    Garment(
        *("ankle-boot", "短靴", "一只", ("踝靴",), ("高帮皮鞋",), "鞋类"),
        facts=(("穿在", "脚部"), ("季节", "冬季"), ("材质", "皮革"), ("部件", "鞋跟")),
    ),
)

#: What the categories are called besides, and what they belong to.
CATEGORIES = {
    "上装": (("上衣",), "服装"),
    "下装": ((), "服装"),
    "裙装": ((), "服装"),
    "鞋类": (("鞋履",), "服饰"),
    "箱包": ((), "服饰"),
}


def facts() -> list[dict[str, Any]]:
    """The graph of garments, a subject a line, as `python -m knowledge build` reads it."""
    things = [
        {
            "subject": garment.name,
            "alias": [*garment.aliases, *garment.hidden],
            "type": garment.category,
            "data": [{"predicate": told, "object": what} for told, what in garment.facts],
        }
        for garment in GARMENTS
    ]
    kinds = [
        {"subject": name, "alias": list(aliases), "data": [{"predicate": "属于", "object": above}]}
        for name, (aliases, above) in CATEGORIES.items()
    ]
    return things + kinds
