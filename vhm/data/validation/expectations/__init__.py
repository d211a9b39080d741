"""What is expected of a validated list, checked and documented by Great Expectations.

suite          the suites (*.json), the tables that they are about, their results
process        runs a suite in a process of its own, which loads Great Expectations while records are checked
run            that process's work: validate the tables, write Data Docs
imports        loads Great Expectations without the libraries that a suite never uses
data_docs      the pages of Data Docs: without a network, the same bytes each time (pages/: their frame)
"""

from vhm.data.validation.expectations.process import SuiteProcess, SuiteRequest
from vhm.data.validation.expectations.suite import (
    ExpectationResult,
    ListSummary,
    SourceSummary,
    SuiteResult,
    summarise_sources,
)

__all__ = [
    "ExpectationResult",
    "ListSummary",
    "SourceSummary",
    "SuiteProcess",
    "SuiteRequest",
    "SuiteResult",
    "summarise_sources",
]
