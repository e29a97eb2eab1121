#!/usr/bin/env python3
"""Makes kubeconform's schemas out of an API server's own description of its resources.

usage: kubectl get --raw /openapi/v2 | dev/chart/schemas.py FOLDER

One file for each kind, GROUP_VERSION_KIND.json in lower case (for the core group its version stands twice, because kubeconform
takes it for the group, too), and _definitions.json, which they all refer to. Nothing is allowed that the API server does not know.
"""
import json
import pathlib
import sys

# Texts to OpenAPI, but also written as numbers.
NUMBERS_TOO = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
}


def closed(schema):
    """The schema, with references into the one file, and without room for unknown fields."""
    result = dict(schema)
    if "$ref" in schema:
        result["$ref"] = "_definitions.json" + schema["$ref"]
    if "properties" in schema:
        result["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for keyword in ("items", "additionalProperties"):
        if isinstance(result.get(keyword), dict):
            result[keyword] = closed(result[keyword])
    return result


folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
definitions = json.load(sys.stdin)["definitions"]
for name, definition in definitions.items():
    for kind in definition.get("x-kubernetes-group-version-kind", []):
        file = f"{kind['group'] or kind['version']}_{kind['version']}_{kind['kind']}.json".lower()
        (folder / file).write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))
definitions = {name: closed(definition) for name, definition in definitions.items()}
for name in NUMBERS_TOO:
    definitions[name] = {"type": ["string", "number"]}
(folder / "_definitions.json").write_text(json.dumps({"definitions": definitions}))
