"""Sentences as people type them, beside what a model that learned captions understands by them.

    python -m recipes.emoji_zh.everyday --data .work/emoji_zh --out .work/emoji_zh/everyday.jsonl

A line for each: `sentence`, `means` (one of the forms of `captions.py`) and `entity`. Wishes,
numbers, adjectives, doings and thanks surround the name; nothing of that can be drawn, so it means
the name and the style alone. The captions are among them and mean what they meant. It is what
`rapid-diffusion teach` learns from.
"""

import argparse
import json
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.files import write_bytes
from rapid_diffusion.training.data import open_graph, read_rows
from recipes.emoji_zh.pictures import STYLES

WISHES = (
    "我想要", "我要", "想要", "给我", "给我画", "帮我画", "请画", "请给我画", "画", "来", "我想看",
    "我想画", "能画", "麻烦画", "请帮我画", "生成", "帮我生成", "我喜欢", "想看", "做",
    "可以画", "我需要", "设计", "有没有", "这是", "那是", "送你", "看，", "你好，我要",
)  # fmt: skip
NUMBERS = (
    "一个", "一只", "一张", "一幅", "两只", "三个", "一些", "这个", "那只", "一头", "一条",
    "一朵", "一束", "一杯", "一碗", "一盘", "一颗", "一块", "一片", "一份", "一群", "一匹", "几个",
    "一对", "一种", "个", "只", "张",
)  # fmt: skip
ADJECTIVES = (
    "可爱的", "小", "大", "小小的", "大大的", "漂亮的", "好看的", "美丽的", "胖乎乎的", "胖胖的",
    "圆圆的", "开心的", "快乐的", "高兴的", "生气的", "可怕的", "调皮的", "聪明的", "害羞的",
    "毛茸茸的", "软软的", "新鲜的", "好吃的", "美味的", "香喷喷的", "热气腾腾的", "甜甜的",
    "冰凉的", "普通的", "真实的", "简单的", "精致的", "梦幻的", "神秘的", "古老的", "年轻的",
    "老", "新的", "特别的", "有趣的", "搞笑的", "呆萌的", "萌萌的", "温柔的", "凶猛的",
    "勇敢的", "孤独的", "安静的", "强壮的", "瘦瘦的", "高高的", "长长的", "会飞的", "会跳舞的",
    "戴帽子的", "穿衣服的", "正在睡觉的", "正在吃饭的", "刚做好的", "成熟的", "我最爱的",
    "超级可爱的", "非常漂亮的", "很大的", "很小的", "夏天的", "冬天的", "春天的", "秋天的",
    "森林里的", "海里的", "天上的", "桌上的", "花园里的", "妈妈做的", "圣诞节的", "生日的",
    "中国的", "传统的", "现代的", "高清", "有笑脸的", "抱着爱心的",
)  # fmt: skip
DOINGS = (
    "在睡觉", "正在睡觉", "在吃东西", "在跑步", "在唱歌", "在跳舞", "在看书", "在喝水", "在玩",
    "坐在地上", "站着", "躺着", "在笑", "在森林里", "在海边", "在草地上", "在天空中", "在桌子上",
    "在月亮下", "在下雨的时候", "在阳光下", "在家里", "和朋友一起", "骑着自行车", "戴着眼镜",
    "抬头看天", "回头看我", "向我挥手", "放在盘子里", "在水里", "在雪地里", "在院子里",
)  # fmt: skip
CLOSINGS = (
    "的图片", "的图", "的图画", "的画", "的照片", "的图标", "的表情", "的头像", "的样子", "的贴图",
    "，谢谢", "，可以吗", "，好吗", "吧", "呢", "呀", "！", "。", "，要好看", "，可爱一点",
    "，白色背景", "，简单一点", "，表白用", "，送给妈妈", "，送给女朋友", "，当头像用",
    "，做成海报", "，细节丰富", "，高清", "，高质量", "，杰作", "，特写", "，生日快乐", "，春节用",
    "，给孩子看",
)  # fmt: skip
BEFORE = ("{s}的", "{s}", "{s}：", "{s}，", "用{s}画")
AFTER = ("，{s}", "，{s}的", "，要{s}", " {s}", "，用{s}")
#: What may stand before a name and after it, in this order, and how often it does.
AROUND = (((0.5, WISHES), (0.5, NUMBERS), (0.6, ADJECTIVES)), ((0.3, DOINGS), (0.3, CLOSINGS)))
HAS_STYLE = 0.6


def main() -> None:
    """Write the sentences of every picture of the training, and its captions as they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path(".work/emoji_zh/everyday.jsonl"))
    parser.add_argument("--count", type=int, default=16, help="of each picture")
    options = parser.parse_args()
    rows = read_rows(options.data / "metadata.jsonl")
    graph = open_graph(options.data / "graph")
    drawn = {graph.entity(row["entity"]) for row in rows}
    told = {
        line["sentence"]: line
        for row in rows
        if row["split"] == "train"
        for line in sentences(row, options.count, lambda text: _named(graph, text) & drawn)
    }
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told.values())
    write_bytes(options.out, text.encode())
    print(f"{len(told)} sentences in {options.out}")


def sentences(
    row: dict[str, Any], count: int, named: Callable[[str], Collection[int]]
) -> list[dict[str, str]]:
    """The captions of a row of `metadata.jsonl`, and `count` everyday sentences.

    `named` tells which things a text names: a word before a name may make another of it (小 and
    鸡), such sentences are left out. The same row gives the same lines.
    """
    generator = random.Random(f"everyday/{row['code']}/{row['style']}")
    drawn = [_sentence(generator, row) for _ in range(count)]
    everyday = [pair for pair in drawn if named(pair[0]) == named(pair[1])]
    kept = [(caption, caption) for caption in row["captions"]]
    return [
        {"sentence": said, "means": meant, "entity": row["entity"]}
        for said, meant in (*kept, *everyday)
    ]


def _named(graph: KnowledgeGraph, text: str) -> set[int]:
    return {link.entity for link in graph.link(text)}


def _sentence(generator: random.Random, row: dict[str, Any]) -> tuple[str, str]:
    """A sentence and what it means."""
    name, style = row["name"], STYLES[row["style"]].words
    before, after = ("".join(_some(generator, *words) for words in side) for side in AROUND)
    said = f"{before}{name}{after}"
    if generator.random() >= HAS_STYLE:
        return said, name
    if generator.random() < 0.5:
        return generator.choice(BEFORE).format(s=style) + said, f"{style}的{name}"
    return said + generator.choice(AFTER).format(s=style), f"{style}的{name}"


def _some(generator: random.Random, chance: float, words: Sequence[str]) -> str:
    return generator.choice(words) if generator.random() < chance else ""


if __name__ == "__main__":
    main()
