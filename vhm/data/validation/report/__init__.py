"""The report of a validation: report.html, one self-contained page for the provider of the data, and a summary.

page          everything that report.html shows; writes it
markdown      the summary as Markdown tables, which Kubeflow shows
examples      which records and pairs of images are shown
statistics    distributions of images, texts and boxes
charts        histograms as geometry
shapes        boxes and polygons in text
thumbnails    embedded images
sampling      bounded reading of large files
words         what reasons and findings mean; text of records made safe

report.html.j2, report.css and report.js are the page's template, style and script. The page makes no request: its
content security policy allows its own style, its own script and embedded images, nothing else.
"""

from vhm.data.validation.report.markdown import report_markdown
from vhm.data.validation.report.page import write_report

__all__ = ["report_markdown", "write_report"]
