"""Reads metrics from standard input as Prometheus does, and prints every sample as a line of JSON: [type, name, labels, value]."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

names = set()
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name.startswith("sync_engine_"), family.name
    assert family.name not in names, f"{family.name} stands there twice"
    assert family.documentation, f"{family.name} has no help"
    names.add(family.name)
    for sample in family.samples:
        print(json.dumps([family.type, sample.name, sample.labels, sample.value]))
