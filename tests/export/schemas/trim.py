"""Makes a small JSON Schema of a public CRD: python trim.py CRD.yaml VERSION KEPT.yaml… > KIND.json

Along what the manifests of KEPT say, the schema is whole, less descriptions, and knows every field's name, so that a
wrong name is found; beside it, a field is known by its name only.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml


def trimmed(schema: Any, said: Any) -> Any:
    """The schema where something is said, and `true` where nothing is."""
    if said is None:
        return True
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: trimmed(one, told(said, name)) for name, one in value.items()}
            kept["additionalProperties"] = False
        elif key == "items":
            kept[key] = trimmed(value, merged(said))
        elif key == "additionalProperties":
            kept.setdefault(key, value)
        elif key in ("type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "anyOf"):
            kept[key] = value
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.pop("additionalProperties", None)
    return kept


def told(said: Any, name: str) -> Any:
    return said.get(name) if isinstance(said, dict) else None


def merged(said: Any) -> Any:
    """What the items of a list say together."""
    if not isinstance(said, list) or not said:
        return None
    if not all(isinstance(one, dict) for one in said):
        return said[0]
    found: dict[str, Any] = {}
    for one in said:
        found |= one
    return found


def main() -> None:
    crd, version, *kept = sys.argv[1:]
    schema = next(
        one["schema"]["openAPIV3Schema"]
        for one in yaml.safe_load(Path(crd).read_text())["spec"]["versions"]
        if one["name"] == version
    )
    made = trimmed(schema, merged([yaml.safe_load(Path(one).read_text()) for one in kept]))
    made["properties"]["metadata"] = {"type": "object"}
    print(json.dumps(made, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
