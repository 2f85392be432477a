"""Decision records as foreign writers or other releases would write them."""

from typing import Any

import msgspec

from experiments.lifecycle.decisions import Decision, Evidence


def altered(
    decision: Decision,
    detail: object = None,
    evidence: object = None,
    **fields: Any,
) -> Decision:
    """`decision` with other fields; `detail` and `evidence` as the JSON that is written."""
    if detail is not None:
        fields["detail_json"] = raw_json(detail)
    if evidence is not None:
        fields["evidence_json"] = raw_json(evidence)
    return msgspec.structs.replace(decision, **fields)


def raw_json(value: object) -> msgspec.Raw:
    """The JSON of a value, as a field of a record."""
    return msgspec.Raw(msgspec.json.encode(value))


def evidence_of(**parts: Any) -> Evidence:
    """Evidence from plain values."""
    return msgspec.convert(parts, Evidence)
