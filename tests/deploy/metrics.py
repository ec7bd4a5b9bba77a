"""Which metrics there are: as src/telemetry declares them, and as queries name them."""

import json
import re
from dataclasses import dataclass

import yaml

from tools import DEPLOY, ROOT

# What Prometheus and Kubernetes put beside the gateway's own labels.
TARGET = {"job", "instance", "namespace", "pod"}

DECLARATION = re.compile(
    r'"(?P<name>trunkline_[a-z_]+)",\s*"(?:[^"\\]|\\.|\\\n)*"[,\s)]*(?:\.buckets\([^)]*\([^)]*\)\)[,\s)]*)?(?P<labels>&\[[^\]]*\])?',
    re.DOTALL,
)


@dataclass(frozen=True)
class Metric:
    name: str
    labels: frozenset
    is_histogram: bool


def declared():
    """By name."""
    found = {}
    for path in sorted((ROOT / "src" / "telemetry").glob("*.rs")):
        text = path.read_text().split("#[cfg(test)]")[0]
        for match in DECLARATION.finditer(text):
            before = text[: match.start()].rstrip().removesuffix("(").rstrip()
            labels = frozenset(re.findall(r'"([a-z_]+)"', match["labels"] or ""))
            is_histogram = bool(re.search(r"(histograms\(\s*\w+,|HistogramOpts::new\()$", text[: match.start()].rstrip()))
            assert before and match["name"] not in found, match["name"]
            found[match["name"]] = Metric(match["name"], labels, is_histogram)
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
