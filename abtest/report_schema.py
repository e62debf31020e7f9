"""JSON schema of a report, as `shelfwise abtest report --json` and `decide --json` print it.

Source: docs/experiments.md, Report.
"""

import msgspec

from abtest.results import Report


def json_schema() -> dict[str, object]:
    """Return the schema: every field is written, also an undefined one, which is null, and no other.

    >>> json_schema()["$ref"]
    '#/$defs/Report'
    """
    (found,), definitions = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    for definition in definitions.values():
        definition["description"] = definition.get("description", "").partition("\n")[0]
        if "properties" in definition:
            definition["required"] = sorted(definition["properties"])
            definition["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "$defs": definitions}
