"""What was measured, as one canonical record and as the pages that people read.

`schema.py` says what a report carries; `html.py` and `markdown.py` render it and compute nothing
that decides anything. `render_html` needs no network and no script to be read.
"""

from __future__ import annotations

from compress.report.html import render_html
from compress.report.markdown import render_markdown
from compress.report.schema import Report, load_report

__all__ = ["Report", "load_report", "render_html", "render_markdown"]
