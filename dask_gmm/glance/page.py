"""The frame of all that notebooks show: one style sheet, and the escaping."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "card",
    "dim",
    "escaped",
    "facts_table",
    "folded",
    "plain",
    "sentences",
    "table",
]

# JupyterLab's own variables where there are some, so that a card is of the notebook's theme; else
# what the browser, Colab, VS Code or Sphinx say. Background and text are set together: where a page
# knows neither, both are ours. Components have colours for white paper: a quarter of white is mixed
# in on dark one.
STYLE = """<style>
.dgmm{--dgmm-ink:var(--jp-content-font-color1,#1c1c1c);--dgmm-dim:var(--jp-content-font-color2,#5c5c5c);
--dgmm-line:var(--jp-border-color2,#d4d4d4);--dgmm-paper:var(--jp-layout-color1,#fff);
--dgmm-lift:0%;color:var(--dgmm-ink);background:var(--dgmm-paper);
border:1px solid var(--dgmm-line);border-radius:6px;padding:.7em .9em;max-width:72em;
font:13px/1.5 var(--jp-content-font-family,system-ui,sans-serif);box-sizing:border-box;
overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){.dgmm{--dgmm-ink:var(--jp-content-font-color1,#e8e8e8);
--dgmm-dim:var(--jp-content-font-color2,#a8a8a8);--dgmm-line:var(--jp-border-color2,#4a4a4a);
--dgmm-paper:var(--jp-layout-color1,#1e1e1e);
--dgmm-lift:25%}}
html[theme=dark] .dgmm,html[data-theme=dark] .dgmm,body[data-theme=dark] .dgmm,.vscode-dark .dgmm{
--dgmm-ink:#e8e8e8;--dgmm-dim:#a8a8a8;--dgmm-line:#4a4a4a;--dgmm-paper:#1e1e1e;
--dgmm-lift:25%}
html[theme=light] .dgmm,html[data-theme=light] .dgmm,body[data-theme=light] .dgmm,
.vscode-light .dgmm{
--dgmm-ink:#1c1c1c;--dgmm-dim:#5c5c5c;--dgmm-line:#d4d4d4;--dgmm-paper:#fff;--dgmm-lift:0%}
body[data-jp-theme-light=false] .dgmm{--dgmm-lift:25%}
body[data-jp-theme-light=true] .dgmm{--dgmm-lift:0%}
.dgmm .dgmm-lit{background:var(--c);
background:color-mix(in srgb,var(--c),#fff var(--dgmm-lift))}
.dgmm svg .dgmm-lit{background:none;stroke:color-mix(in srgb,var(--c),#fff var(--dgmm-lift))}
.dgmm svg .dgmm-full{fill:color-mix(in srgb,var(--c),#fff var(--dgmm-lift))}
.dgmm p{margin:0 0 .4em;color:inherit}
.dgmm .dgmm-head{font-weight:600;font-size:1.08em}
.dgmm .dgmm-dim{color:var(--dgmm-dim)}
.dgmm .dgmm-wide{overflow-x:auto;margin:.5em 0}
.dgmm table{border-collapse:collapse;margin:0;font-size:1em;color:inherit;background:none;
border:0;width:auto}
.dgmm caption{caption-side:top;text-align:left;color:var(--dgmm-dim);padding:0 0 .2em;
white-space:nowrap}
.dgmm th,.dgmm td{text-align:right;padding:.12em .7em;border:0;background:none;color:inherit;
font-variant-numeric:tabular-nums;white-space:nowrap;vertical-align:baseline;font-weight:400}
.dgmm tr{background:none!important}
.dgmm thead th{font-weight:600;border-bottom:1px solid var(--dgmm-line);white-space:normal;
min-width:4.5em;vertical-align:bottom}
.dgmm td.dgmm-text,.dgmm th.dgmm-text{text-align:left}
.dgmm tr.dgmm-best th,.dgmm tr.dgmm-best td{font-weight:700;
background:rgba(128,128,128,.22)}
.dgmm .dgmm-dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.45em}
.dgmm .dgmm-bar{display:inline-block;width:5em;height:.75em;background:rgba(128,128,128,.22);
border-radius:2px;margin-right:.6em;text-align:left;vertical-align:-.05em}
.dgmm .dgmm-bar>span{display:block;height:100%;border-radius:2px;min-width:1px}
.dgmm .dgmm-small{display:flex;flex-wrap:wrap;gap:.5em 1em;margin:.6em 0}
.dgmm .dgmm-panel{width:164px;font-size:11px;line-height:1.3}
.dgmm .dgmm-panel svg{display:block;width:164px;height:58px;overflow:visible}
.dgmm .dgmm-panel b{font-weight:600;display:block;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.dgmm .dgmm-ends{display:flex;justify-content:space-between;color:var(--dgmm-dim);
font-variant-numeric:tabular-nums}
.dgmm summary{cursor:pointer;color:var(--dgmm-dim)}
.dgmm details[open]>summary{margin-bottom:.4em}
.dgmm pre{white-space:pre-wrap;margin:.3em 0;padding:0;background:none;color:inherit;font-size:12px}
</style>"""


def escaped(text: object) -> str:
    """Return text that is text in HTML too, between tags and in attributes."""
    return escape(str(text), quote=True)


def card(label: str, *parts: str) -> str:
    """Return a card with its style sheet.

    Parameters
    ----------
    label : str
        What a reader of screens calls it.
    *parts : str
        HTML.
    """
    body = "\n".join(part for part in parts if part)
    return f'{STYLE}\n<div class="dgmm" role="group" aria-label="{escaped(label)}">\n{body}\n</div>'


def sentences(lines: Iterable[str]) -> str:
    """Return lines as paragraphs, the first as a heading."""
    kinds = ("dgmm-head", "")
    return "\n".join(
        f'<p class="{kinds[min(i, 1)]}">{escaped(line)}</p>' for i, line in enumerate(lines)
    )


def plain(lines: Iterable[str]) -> str:
    """Return lines as paragraphs, none of them a heading."""
    return "\n".join(f"<p>{escaped(line)}</p>" for line in lines)


def dim(text: str) -> str:
    """Return a remark, nothing for none."""
    return f'<p class="dgmm-dim">{escaped(text)}</p>' if text else ""


def folded(summary: str, body: str) -> str:
    """Return HTML that opens when it is asked for."""
    return f"<details><summary>{escaped(summary)}</summary>\n{body}\n</details>"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str], bool]],
    words: Sequence[str] = (),
) -> str:
    """Return a table that a reader of screens can walk through.

    Parameters
    ----------
    caption : str
    columns : sequence of str
        Headings, as text.
    rows : iterable of (str, sequence of str, bool)
        The first cell, which names the row, and the others, all as HTML; whether it is the best.
    words : sequence of str
        Columns of words, which begin at the left.
    """
    kinds = [' class="dgmm-text"' if name in words else "" for name in columns]
    pairs = list(zip(kinds, columns, strict=True))
    head = "".join(f'<th scope="col"{kind}>{escaped(name)}</th>' for kind, name in pairs)
    lines = []
    for first, cells, best in rows:
        own = ' class="dgmm-best"' if best else ""
        lines.append(
            f'<tr{own}><th scope="row">{first}</th>'
            + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], cells, strict=True))
            + "</tr>"
        )
    body = "\n".join(lines)
    return (
        f'<div class="dgmm-wide" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f"<table><caption>{escaped(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts_table(label: str, facts: Sequence[tuple[str, str]]) -> str:
    """Return a card of names and values."""
    rows = "\n".join(
        f'<tr><th scope="row" class="dgmm-text">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in facts
    )
    return card(
        label,
        f'<p class="dgmm-head">{escaped(label)}</p>',
        f'<div class="dgmm-wide"><table><tbody>\n{rows}\n</tbody></table></div>',
    )
