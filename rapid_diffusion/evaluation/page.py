"""The report as one HTML file that needs nothing else: no script, no font, no picture outside."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Record = Mapping[str, Any]
SOURCES = ("real", "model", "against", "difference")
SUFFIXES = ("_interval", "_deviation")

STYLE = """
:root { color-scheme: light dark; --edge: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 64rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--edge); padding: .3rem .6rem; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { opacity: .75; display: block; }
.missing { background: var(--soft); border-left: 4px solid #c80; padding: .5rem .8rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.card { background: var(--soft); border-radius: .5rem; padding: .6rem; }
.row { display: flex; gap: .5rem; } figure { margin: 0; flex: 1; }
figure img { width: 100%; max-width: 128px; background: #fff; border-radius: .3rem; }
figcaption { font-size: .8rem; }
"""


def render_page(report: Mapping[str, Any], pictures: Sequence[Mapping[str, str]]) -> str:
    """The page of a report; `pictures[i]` are data URIs for `report["pictures"][i]`, by source."""
    models: Mapping[str, Any] = report["models"]
    title = "Evaluation of " + " against ".join(model["name"] for model in models.values())
    sections = report["sections"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(report),
        "<nav>" + "".join(_link(name, part["title"]) for name, part in sections.items()),
        _link("pictures", "Side by side") + "</nav>",
        *(_section(name, section) for name, section in sections.items()),
        '<section id="pictures"><h2>Side by side</h2>'
        "<p>Nobody picked these: the first prompts by the digest of their text, drawn with seed 0."
        '</p><div class="cards">',
        *(_card(entry, pictures[place]) for place, entry in enumerate(report["pictures"])),
        "</div></section>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def _link(name: str, title: str) -> str:
    return f'<a href="#{escape(name)}">{escape(title)}</a>'


def _facts(report: Mapping[str, Any]) -> str:
    """Which models, which data, how much was drawn."""
    rows = [
        f"<li><b>{escape(source)}</b>: {escape(model['name'])}, <code>{escape(model['digest'])}"
        f"</code>, {_listed(model['parameters'])}</li>"
        for source, model in report["models"].items()
    ]
    rows += [f"<li>{_listed(report[name])}</li>" for name in ("data", "settings")]
    return f"<ul>{''.join(rows)}</ul>"


def _listed(values: Mapping[str, Any]) -> str:
    return escape(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items()))


def _section(name: str, section: Mapping[str, Any]) -> str:
    parts = [f"<h2>{escape(section['title'])}</h2><p>{escape(section['says'])}</p>"]
    if "missing" in section:
        parts.append(f'<p class="missing">Not measured: {escape(section["missing"])}.</p>')
    for place, table in enumerate(section["tables"]):
        parts.append(_table(table, f"sections/{name}/tables/{place}/rows"))
    parts += [f"<p>{escape(note)}</p>" for note in section["notes"]]
    return f'<section id="{escape(name)}">{"".join(parts)}</section>'


def _table(table: Mapping[str, Any], path: str) -> str:
    rows: Sequence[Record] = table["rows"]
    columns = _columns(rows)
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(_cell(row, name, f"{path}/{place}") for name in columns) + "</tr>"
        for place, row in enumerate(rows)
    )
    caption = f"<caption>{escape(table['title'])}</caption>"
    return f'<div class="wide"><table>{caption}<tr>{head}</tr>{body}</table></div>'


def _columns(rows: Sequence[Record]) -> list[str]:
    """What the rows are about first, then the sources in their order."""
    names = dict.fromkeys(name for row in rows for name in row if not name.endswith(SUFFIXES))
    facts = [name for name in names if name not in SOURCES]
    facts.sort(key=lambda name: name != "what")
    return facts + [name for name in SOURCES if name in names]


def _cell(row: Record, name: str, path: str) -> str:
    """A number with its interval below it; `data-at` is its place in report.json."""
    if name not in row:
        return '<td class="number">–</td>'
    kind = ' class="number"' if isinstance(row[name], int | float) else ""
    extra = "".join(
        f'<small data-at="{escape(path)}/{name}{suffix}">{shown(row[name + suffix])}</small>'
        for suffix in SUFFIXES
        if name + suffix in row
    )
    text = f'<span data-at="{escape(path)}/{name}">{shown(row[name])}</span>'
    return f"<td{kind}>{text}{extra}</td>"


def shown(value: object) -> str:
    """A value of report.json as the page writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return escape(str(value))


def _card(entry: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(source)}: {escape(entry["prompt"])}" src="{escape(uri)}">'
        f"<figcaption>{escape(_caption(source))}</figcaption></figure>"
        for source, uri in pictures.items()
    )
    said = f"{escape(entry['prompt'])}<small>seed {entry['seed']}, {escape(entry['of'])}</small>"
    return f'<div class="card"><div class="row">{figures}</div>{said}</div>'


def _caption(source: str) -> str:
    return "real" if source == "real" else f"{source}, generated"
