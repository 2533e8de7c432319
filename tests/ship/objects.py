"""objects.py VERSION,... FILE...: the objects of YAML files as one JSON document, {file: [object, ...]}, after each was checked
strictly, unknown fields are errors, against the schemas of those versions of Kubernetes."""

import functools
import json
import sys

import jsonschema
import yaml
from kubernetes_validate import utils
from referencing import Registry, Resource

# Kinds of the Prometheus operator: no schema comes with Kubernetes.
FOREIGN = "monitoring.coreos.com/"


@functools.cache
def registry(folder, version):
    return Resource.from_contents(utils.schema_contents(f"{folder}/_definitions.json", version)) @ Registry()


@functools.cache
def validator(kind, api, version):
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, rest = api.rpartition("/")
    prefix = group.split(".")[0] + "-" if group else ""
    schema = utils.schema_contents(f"{folder}/{kind.lower()}-{prefix}{rest}.json", version)
    resources = Resource.from_contents(schema) @ registry(folder, version)
    return jsonschema.validators.Draft202012Validator(schema, registry=resources)


def main():
    versions = sys.argv[1].split(",")
    found, wrong = {}, []
    for path in sys.argv[2:]:
        with open(path) as file:
            found[path] = [one for one in yaml.load_all(file, Loader=yaml.CSafeLoader) if one]
        for one in found[path]:
            if one["apiVersion"].startswith(FOREIGN):
                continue
            for version in versions:
                for error in validator(one["kind"], one["apiVersion"], version).iter_errors(one):
                    at = "/".join(str(part) for part in error.absolute_path)
                    wrong.append(f"{path}: {one['kind']} {one['metadata']['name']}, Kubernetes {version}: {at}: {error.message[:300]}")
    if wrong:
        sys.exit("\n".join(wrong))
    json.dump(found, sys.stdout)


main()
