"""The JSON Schema of `report.json`, for readers in other languages.

python -m compress.report.json_schema > compress/report/report.schema.json
"""

from __future__ import annotations

import json

from compress.report.schema import Report


def schema_text() -> str:
    """The text of `report.schema.json`: sorted keys, two spaces, a newline at the end."""
    return json.dumps(Report.model_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
