"""A fit in one page: what was fitted, how it ended, what to worry about, figures, record."""

from dask_gmm.report.evidence import Evidence
from dask_gmm.report.findings import Finding, Severity, find
from dask_gmm.report.place import check_report_place
from dask_gmm.report.write import report_text, write_report

__all__ = [
    "Evidence",
    "Finding",
    "Severity",
    "check_report_place",
    "find",
    "report_text",
    "write_report",
]
