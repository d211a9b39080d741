"""What a validation found, for people: one HTML page and one Markdown table, as Kubeflow shows them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

_STYLE = (
    "body{font:14px sans-serif;max-width:70em}td,th{padding:3px 10px;text-align:left;vertical-align:top}"
    "tr:nth-child(even){background:#f4f4f4}.no{color:#b00020}"
)


def report_html(result: dict[str, Any], folder: Path) -> str:
    """`result` is validation.json; what `folder` has of leaks is shown, too."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{escape(result['kind'])}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{escape(result['kind'])}: {'passed' if result['passed'] else 'failed'}</h1>")
    parts += [f"<p class=no>{escape(failure)}" for failure in result["failures"]]
    for title, head, rows in _tables(result):
        if rows:
            parts.append(f"<h2>{title}</h2><table><tr>{''.join(f'<th>{escape(cell)}' for cell in head)}")
            parts += [f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows]
            parts.append("</table>")
    leaks = folder / "leaks.html"
    if leaks.is_file():
        parts.append(leaks.read_text().partition("</style>")[2])
    return "".join(parts) + "\n"


def report_markdown(result: dict[str, Any]) -> str:
    """The same figures as Markdown tables."""
    lines = [f"# {result['kind']}: {'passed' if result['passed'] else '**failed**'}", ""]
    lines += [f"- {escape(failure, quote=False)}" for failure in result["failures"]]
    for title, head, rows in _tables(result):
        if rows:
            lines += ["", f"## {title}", "", _row(head), _row("---" for _ in head), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    plain = (escape(" ".join(cell.split()), quote=False).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _tables(result: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    counts = [
        ["list", result["source"]],
        ["accepted", f"{result['accepted']} of {result['total']}"],
        ["rejected", str(result["rejected"])],
        ["answers that are refusals", f"{result['refusal_share']:.1%}"],
    ]
    sources = [
        [
            name or "(none)",
            str(row["records"]),
            *(_share(row[key]) for key in _SHARES),
            _number(row["mean_answer_length"]),
        ]
        for name, row in list(result["sources"].items())[:50]
    ]
    expectations = [
        ["met" if found["success"] else "NOT MET", found["table"], _expected(found), _observed(found["observed"])]
        for found in result["expectations"].get("results", [])
    ]
    return [
        ("Records", ["", ""], counts),
        ("Reasons", ["reason", "records"], [[reason, str(count)] for reason, count in result["reasons"].items()]),
        ("Sources", ["source", "records", "share", "duplicates", "refusals", "answer, characters"], sources),
        ("Expectations", ["", "of", "expectation", "observed"], expectations),
    ]


_SHARES = ("share", "duplicate_share", "refusal_share")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _expected(found: dict[str, Any]) -> str:
    arguments = {k: v for k, v in found["arguments"].items() if k != "column"}
    wanted = ", ".join(f"{name} {value}" for name, value in arguments.items())
    return f"{found['arguments'].get('column', 'rows')}: {found['expectation'].removeprefix('expect_')} ({wanted})"


def _observed(value: Any) -> str:
    return "" if value is None or (isinstance(value, list) and not value) else str(value)[:80]
