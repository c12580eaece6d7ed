"""Chinese sentences for a picture: style words, names, keywords and their order vary."""

import random

from recipes.emoji_zh.concepts import Concept
from recipes.emoji_zh.pictures import STYLES

#: With `{s}` for the style and `{n}` for the name of what is drawn.
STYLED = (
    "{s}的{n}",
    "{s}的{n}",
    "{n}，{s}",
    "{s}{n}",
    "一个{s}的{n}",
    "画一个{n}，{s}",
    "{s}，{n}",
    "请画{s}的{n}",
    "{n}图标，{s}",
)
PLAIN = ("{n}", "一个{n}", "画一个{n}", "{n}表情", "{n}的图片")


def compose(
    concept: Concept,
    style: str,
    colours: list[str],
    aliases: list[str],
    count: int,
) -> list[str]:
    """`count` captions, the first the plain one a user would type.

    `aliases` are surfaces that name this concept alone and are not held out. The same arguments
    give the same captions.
    """
    generator = random.Random(f"{concept.code}/{style}")
    captions = [f"{STYLES[style].words}的{concept.name}"]
    while len(captions) < count:
        captions.append(_compose_one(generator, concept, style, colours, aliases))
    return captions


def _compose_one(
    generator: random.Random,
    concept: Concept,
    style: str,
    colours: list[str],
    aliases: list[str],
) -> str:
    name = concept.name
    if aliases and generator.random() < 0.3:
        name = generator.choice(aliases)
    if colours and generator.random() < 0.12:
        name = f"{colours[0]}的{name}"
    if generator.random() < 0.12:
        return generator.choice(PLAIN).format(n=name)
    words = STYLES[style].words
    if generator.random() < 0.25:
        words = generator.choice(STYLES[style].synonyms)
    caption = generator.choice(STYLED).format(s=words, n=name)
    extra = [word for word in concept.keywords if word not in aliases and word in _shared(concept)]
    if extra and generator.random() < 0.12:
        caption = f"{caption}，{generator.choice(extra)}"
    return caption


def _shared(concept: Concept) -> tuple[str, ...]:
    """Words that say what kind of thing it is, which a user may add."""
    return (concept.subgroup_name, *(w for w in concept.keywords if w in concept.subgroup_name))
