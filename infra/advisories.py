"""`python infra/advisories.py FOLDER CONSTRAINTS`: known vulnerabilities of pinned libraries, no network
needed.

FOLDER holds records of the OSV schema (https://ossf.github.io/osv-schema/) as YAML or JSON, such as a
checkout of github.com/pypa/advisory-database. Exit status 1 if a pinned version is affected, 2 if
nothing could be compared.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Record = Mapping[str, Any]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def main() -> int:
    """Print what is affected, and what it was compared with."""
    folder, constraints = map(Path, sys.argv[1:3])
    pinned = pins(constraints.read_text("utf-8"))
    told = [record for record in records_in(folder) if not record.get("withdrawn")]
    records = [record for record in told if names_of(record) & pinned.keys()]
    if not records:
        print(f"Not audited: no record in {folder} is about a pinned library.", file=sys.stderr)
        return 2
    found = [(name, record) for record in records for name in affected(record, pinned)]
    for name, record in found:
        also = ", ".join(record.get("aliases", []))
        print(f"{name} {pinned[name]}: {record['id']} ({also}) {record.get('summary', '')}".rstrip())
    newest = max(str(record["modified"]) for record in records)[:10]
    compared = f"{len(pinned)} libraries against {len(records)} advisories, the newest of {newest}"
    print(f"{compared}: {len(found)} affected")
    return int(bool(found))


def pins(constraints: str) -> dict[str, str]:
    """Version by normalised name.

    >>> pins("# pinned\\nPyYAML==6.0.3")
    {'pyyaml': '6.0.3'}
    """
    pairs = (line.split("==", 1) for line in constraints.splitlines() if "==" in line and line[0] != "#")
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def records_in(folder: Path) -> Iterator[Record]:
    """Every record under `folder`."""
    for file in sorted(folder.rglob("*.json")):
        yield json.loads(file.read_text("utf-8"))
    for file in sorted(folder.rglob("*.yaml")):
        record = yaml.load(file.read_text("utf-8"), Loader)
        if isinstance(record, dict) and "affected" in record:
            yield record


def names_of(record: Record) -> set[str]:
    """Packages of PyPI that a record is about."""
    return {name for name, _ in _parts(record)}


def affected(record: Record, pinned: Mapping[str, str]) -> list[str]:
    """Names of pinned libraries whose version the record calls affected."""
    return sorted({name for name, part in _parts(record) if name in pinned and _holds(part, pinned[name])})


def _parts(record: Record) -> list[tuple[str, Mapping[str, Any]]]:
    parts = [part for part in record.get("affected", []) if part["package"]["ecosystem"] == "PyPI"]
    return [(canonicalize_name(part["package"]["name"]), part) for part in parts]


def _holds(part: Record, version: str) -> bool:
    ranges = [each for each in part.get("ranges", []) if each["type"] == "ECOSYSTEM"]
    try:
        return version in part.get("versions", []) or any(_within(each["events"], version) for each in ranges)
    except InvalidVersion:
        return True  # a person has to look


def _within(events: Iterable[Mapping[str, str]], version: str) -> bool:
    """Whether the last event at or before `version` is an introduction (the algorithm of the OSV schema).

    >>> _within([{"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0"}], "1.2")
    False
    """
    at, inside = Version(version), False
    bounds = [(Version(bound), what) for event in events for what, bound in event.items()]
    for bound, what in sorted(bounds):
        if what == "introduced" and at >= bound:
            inside = True
        elif (what == "fixed" and at >= bound) or (what == "last_affected" and at > bound):
            inside = False
    return inside


if __name__ == "__main__":
    sys.exit(main())
