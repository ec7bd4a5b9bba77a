"""Which metrics there are: as the gateway documents them, and as queries name them."""

import json
import re
from dataclasses import dataclass

import yaml

from tools import DEPLOY

# What Prometheus and Kubernetes put beside the gateway's own labels.
TARGET = {"job", "instance", "namespace", "pod"}

@dataclass(frozen=True)
class Metric:
    name: str
    labels: frozenset
    is_histogram: bool
    kind: str


def declared():
    """By name, as deploy/METRICS.md has them, which a test of the gateway keeps as the code is."""
    found = {}
    for line in (DEPLOY / "METRICS.md").read_text().split("\n## Labels\n")[0].splitlines():
        if row := re.match(r"\| `(\w+)` \| (counter|gauge|histogram) \| [^|]+ \|([^|]*)\|", line):
            assert row[1] not in found, row[1]
            labels = frozenset(re.findall(r"`(\w+)`", row[3]))
            found[row[1]] = Metric(row[1], labels, row[2] == "histogram", row[2])
    assert found
    return found


def served(text):
    """Name of the family and its labels, for every series of a scrape."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = name
        if name not in kinds:
            family = re.sub(r"_(bucket|sum|count)$", "", name)
        yield family, kinds[family], set(re.findall(r'(\w+)="', labels)) - {"le"}


def rules():
    """What is recorded, and each rule's query by its name."""
    groups = [
        group
        for path in sorted((DEPLOY / "prometheus").glob("*.rules.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    return {rule.get("record") or rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboards():
    return {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))}


def dashboard_queries(dashboard):
    """Where a query stands, and the query, of panels and variables that ask Prometheus."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["definition"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            if target["datasource"]["type"] == "prometheus":
                yield panel["title"], target["expr"]


def as_prometheus_gets_it(query):
    """With everything chosen in the variables; of a variable's own query the part that selects series."""
    if found := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
        query = f"count by ({found[2]}) ({found[1]})"
    query = query.replace("$__rate_interval", "5m").replace("$__range", "5m")
    return re.sub(r"\$\w+", ".*", query)


def named(query):
    """Each metric of a query with the labels of its selector, and the labels that are grouped and matched by."""
    bare = re.sub(r'"[^"]*"', '""', query)
    grouped = set()
    for group in re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare):
        grouped |= set(re.findall(r"\w+", group))
    selected = [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels or "")))
        for name, labels in re.findall(r"((?:\w+:)?trunkline_\w+(?::\w+)?)(?:\{([^}]*)\})?", bare)
    ]
    return selected, grouped
