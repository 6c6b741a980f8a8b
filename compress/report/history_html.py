"""A history as one HTML page that needs no network and no script, in the report's own style."""

from __future__ import annotations

from compress.report.history_pictures import form_marker, history_picture
from compress.report.history_schema import History, Series
from compress.report.history_words import change_words, heading, overview, summary
from compress.report.html import environment


def render_history_html(history: History) -> str:
    """The whole page as text; the same history always gives the same page."""
    sentence, status = summary(history)
    letters = list(history.machines)
    return (
        environment()
        .get_template("history.html.jinja")
        .render(
            history=history,
            sentence=sentence,
            status=status,
            heading=heading,
            overview=overview,
            picture=lambda series, width: history_picture(series, width, letters),
            changes=_changes,
            marks=[(form_marker(place), key) for place, key in enumerate(letters)],
        )
    )


def _changes(series: Series) -> list[object]:
    return [change_words(series, change, key) for key, change in enumerate(series.changes, start=1)]
