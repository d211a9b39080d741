"""Data Docs: the pages of Great Expectations' own renderers in a frame of ours.

    DIR/index.html                 the verdict, and links to the other pages
    DIR/validations/TABLE.html     results for the list, its records, its sources
    DIR/expectations/TABLE.html    what is expected of them, and why

The frame of Great Expectations loads styles, scripts and images from the web and shows times and random ids. Ours
(pages/) has its own style and script inline: a page needs no other file, and its bytes depend on the results alone.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.validation.expectations.suite import Table
from vhm.data.validation.templates import template_cache
from vhm.io import write_text

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.render import RenderedDocumentContent
    from jinja2 import Environment


@dataclass(frozen=True)
class DocumentedTable:
    """A table's suite and its result, as objects of Great Expectations."""

    table: Table
    suite: ExpectationSuite
    result: ExpectationSuiteValidationResult


def write_data_docs(kind: str, tables: Sequence[DocumentedTable], folder: Path) -> None:
    """Write the pages for a list of this kind to `folder`, which replaces an earlier one."""
    from great_expectations.render.renderer import ExpectationSuitePageRenderer

    environment = page_environment()
    shutil.rmtree(folder, ignore_errors=True)
    for documented in tables:
        documents = {
            "validations": _render_results(documented),
            "expectations": ExpectationSuitePageRenderer().render(documented.suite),
        }
        for section, document in documents.items():
            page = environment.get_template("page.j2").render(document.to_json_dict(), **_names(documented))
            write_text(folder / section / f"{documented.table}.html", page)
    success = all(documented.result.success for documented in tables)
    rows = [_index_row(documented) for documented in tables]
    write_text(
        folder / "index.html", environment.get_template("index.j2").render(title=kind, success=success, rows=rows)
    )


def _names(documented: DocumentedTable) -> dict[str, object]:
    """What pages/page.j2 shows around the document of a renderer."""
    return {
        "title": documented.suite.name,
        "table": documented.table,
        "success": documented.result.success,
        "reasons": [_reason(one.configuration) for one in documented.suite.expectations],
    }


@functools.cache
def page_environment() -> Environment:
    """Great Expectations' templates and filters; those in pages/ take the place of its own of the same name."""
    from great_expectations.render.view import DefaultJinjaPageView
    from jinja2 import ChoiceLoader, FileSystemLoader

    environment: Environment = DefaultJinjaPageView().env
    pages = FileSystemLoader(Path(__file__).with_name("pages"))
    environment.loader = ChoiceLoader(list(filter(None, [pages, environment.loader])))
    environment.bytecode_cache = template_cache()
    return environment


def _render_results(documented: DocumentedTable) -> RenderedDocumentContent:
    """The results as a page, without what changes from run to run: times, and a fingerprint of the table in memory."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    version = documented.result.meta["great_expectations_version"]
    documented.result.meta = {
        "great_expectations_version": version,
        "batch_spec": {"data_asset_name": documented.table},
    }
    document = ValidationResultsPageRenderer().render(documented.result)
    overview = document.sections[0]
    overview.content_blocks = [block for block in overview.content_blocks if block.content_block_type != "collapse"]
    [header] = [block for block in overview.content_blocks if block.content_block_type == "header"]
    parameters = header.subheader.string_template["styling"]["params"]
    parameters["expectation_suite_name"]["attributes"]["href"] = f"../expectations/{documented.table}.html"
    return document


def _index_row(documented: DocumentedTable) -> dict[str, object]:
    results = documented.result.results
    unmet = [result.expectation_config for result in results if not result.success]
    return {
        "table": documented.table,
        "success": documented.result.success,
        "evaluated": len(results),
        "met": len(results) - len(unmet),
        "failures": [": ".join(_reason(one)) for one in unmet],
    }


def _reason(expectation: ExpectationConfiguration) -> tuple[str, str]:
    """The column that an expectation is about, and why it is expected."""
    return expectation.kwargs.get("column", "rows"), expectation.meta["why"]
