"""Check KServe manifests against KServe's own schema, as its installation brings it.

Usage:
  python benchmarks/manifests.py --crd serving.kserve.io_inferenceservices.yaml MANIFESTS.yaml…

The schema is the custom resource definition in KServe's repository, config/crd/full/, or in a
cluster: kubectl get crd inferenceservices.serving.kserve.io -o yaml. Fields that the schema does
not know are refused, as ``kubectl apply --validate=strict`` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml


def closed(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON Schema without unknown fields."""
    if not isinstance(schema, dict):
        return schema
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    for key in ("items", "additionalProperties"):
        if key in found:
            found[key] = closed(found[key])
    if "properties" in found:
        found["properties"] = {name: closed(part) for name, part in found["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    return found


def main() -> int:
    """Print what is wrong with each manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--crd", type=Path, required=True)
    parser.add_argument("manifests", type=Path, nargs="+")
    given = parser.parse_args()
    definition = yaml.safe_load(given.crd.read_text())
    kind, group = definition["spec"]["names"]["kind"], definition["spec"]["group"]
    schemas = {
        f"{group}/{version['name']}": closed(version["schema"]["openAPIV3Schema"])
        for version in definition["spec"]["versions"]
    }
    for schema in schemas.values():
        schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not KServe's
    wrong = 0
    for path in given.manifests:
        for entry in yaml.safe_load_all(path.read_text()):
            if entry["kind"] != kind:
                continue
            validator = jsonschema.Draft7Validator(schemas[entry["apiVersion"]])
            errors = [f"{e.json_path}: {e.message[:200]}" for e in validator.iter_errors(entry)]
            wrong += len(errors)
            print(path, entry["metadata"]["name"], "; ".join(errors) or "valid")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
