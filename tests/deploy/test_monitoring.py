"""Rules and dashboards ask for what there is, alerts fire when they should, and each is explained."""

import json
import re

import pytest
import yaml

from charts import FEATURES, find, render
from metrics import TARGET, as_prometheus_gets_it, dashboard_queries, dashboards, declared, named, rules, served
from tools import DEPLOY, PROMTOOL, ROOT, check

DASHBOARDS = dashboards()
QUERIES = [
    pytest.param(query, id=f"{name}: {place}")
    for name, dashboard in DASHBOARDS.items()
    for place, query in dashboard_queries(dashboard)
]


@pytest.fixture
def promtool():
    if not PROMTOOL.exists():
        pytest.skip("no promtool was to be had here: see tests/tools/prometheus.sh")
    return PROMTOOL


def test_promtool_takes_the_rules(promtool):
    said = check(promtool, "check", "rules", *sorted(DEPLOY.glob("prometheus/*.rules.yaml")))
    assert said.count("SUCCESS") == 2


def test_promtool_takes_the_configuration_of_compose(promtool, tmp_path):
    text = (DEPLOY / "compose" / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules", str(DEPLOY / "prometheus")))
    said = check(promtool, "check", "config", config)
    assert "2 rule files found" in said


def test_each_alert_fires_and_stays_silent(promtool):
    check(promtool, "test", "rules", ROOT / "tests" / "deploy" / "alerts.test.yaml")


def test_each_alert_has_its_test():
    tests = yaml.safe_load((ROOT / "tests" / "deploy" / "alerts.test.yaml").read_text())["tests"]
    for alert in alerts():
        cases = [case for test in tests for case in test["alert_rule_test"] if case["alertname"] == alert]
        assert any(case["exp_alerts"] for case in cases), f"{alert} never fires"
        assert any(not case["exp_alerts"] for case in cases), f"{alert} is never silent"


def test_each_alert_is_in_the_runbook_and_nothing_else_is():
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert headings == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")


def alerts():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.rules.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_metrics_are_served_as_they_are_declared(gateway):
    known = declared()
    seen = set()
    for name, kind, labels in served(gateway.metrics()):
        seen.add(name)
        assert name in known, f"{name} is served and is not in deploy/METRICS.md"
        assert labels == known[name].labels, name
        assert kind == known[name].kind, name
    # Queries for what never has a series are asked, but nothing can be said of their answers.
    assert set(known) - seen <= RARE


# What the calls of these tests need not cause: faults of credentials, of Redis, of certificates, races, and operators.
RARE = {
    f"trunkline_{name}"
    for name in [
        "bad_input_total",
        "benign_races_total",
        "call_records_retried_total",
        "connections_ended_total",
        "control_requests_total",
        "credential_retries_total",
        "deployment_drained",
        "dns_fallbacks_total",
        "forecast_error_ratio",
        "hedges_total",
        "ignored_messages_total",
        "key_file_reloads_total",
        "policy_refused_total",
        "pool_ejections_total",
        "retry_budget_exhausted_total",
        "signing_key_fetches_total",
        "signing_keys_fetched_timestamp_seconds",
        "standby_retired_total",
        "store_errors_total",
        "store_fallbacks_total",
        "store_lost_total",
        "tls_reloads_total",
        "trace_contexts_total",
        "token_expiry_seconds",
        "token_refreshes_total",
        "underruns_total",
    ]
}


def test_promtool_takes_the_metrics(promtool, gateway, tmp_path):
    path = tmp_path / "metrics"
    path.write_text(gateway.metrics())
    check("sh", "-c", f"'{promtool}' check metrics < '{path}'")


@pytest.mark.parametrize("name", rules())
def test_rules_ask_for_what_there_is(name):
    assert_exists(rules()[name])


@pytest.mark.parametrize("query", QUERIES)
def test_dashboards_ask_for_what_there_is(query):
    assert_exists(as_prometheus_gets_it(query))


def test_scaling_asks_for_what_there_is():
    trigger = find(render(FEATURES["keda"]), "ScaledObject")["spec"]["triggers"][0]
    assert_exists(trigger["metadata"]["query"])


def assert_exists(query):
    """Each metric, and each label that the query selects or groups by."""
    known = declared()
    recorded = rules()
    selected, grouped = named(query)
    offered = set(TARGET)
    for name, labels in selected:
        here = labels_of(name, known, recorded)
        assert labels <= here | TARGET, f"{name} has no {labels - here - TARGET}"
        offered |= here
    assert grouped <= offered, f"no {grouped - offered} in: {query}"


def labels_of(name, known, recorded):
    if ":" in name:
        assert name in recorded, f"nobody records {name}"
        return named(recorded[name])[1] - {"le"}
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if base != name and base in known:
        assert known[base].is_histogram, name
        return known[base].labels | ({"le"} if name.endswith("_bucket") else set())
    assert name in known, f"there is no {name}"
    assert not known[name].is_histogram, f"{name} is a histogram"
    return known[name].labels


@pytest.mark.parametrize("query", ["up{a=\"b\"} + trunkline_made_up", 'trunkline_draining{tenant="a"}', "sum by (x) (trunkline_draining)"])
def test_what_there_is_not_is_noticed(query):
    with pytest.raises(AssertionError):
        assert_exists(query)


@pytest.mark.parametrize("query", QUERIES)
def test_prometheus_answers_dashboards(prometheus, gateway, query):
    """Without a mistake; and with series, unless the gateway of these tests counted none of that."""
    query = as_prometheus_gets_it(query)
    series = prometheus.query(query)
    live = {name for name, _, _ in served(gateway.metrics())} | set(recorded_now(prometheus))
    selected = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in named(query)[0]}
    if selected <= live and not is_picky(query):
        assert series, f"nothing for {query}"


def recorded_now(prometheus):
    return {name for name in rules() if ":" in name and prometheus.query(name)}


def is_picky(query):
    """Whether it asks for what should not be, or for certain values of labels."""
    return any(sign in query for sign in ("== 1", "!=", 'cached="', 'code="', 'outcome="'))


@pytest.mark.parametrize("what", ["latency", "model", "gateway"])
def test_prometheus_keeps_the_traces_of_turns(prometheus, what):
    """A gateway that traces serves OpenMetrics to Prometheus, and a slow turn leads to its trace."""
    kept = prometheus.exemplars(f"trunkline_turn_{what}_seconds_bucket")
    assert kept
    for series in kept:
        for exemplar in series["exemplars"]:
            assert re.fullmatch(r"[0-9a-f]{32}", exemplar["labels"]["trace_id"])
            assert float(exemplar["value"]) <= float(series["seriesLabels"]["le"])


def test_prometheus_evaluates_every_rule(prometheus):
    for name, query in rules().items():
        prometheus.query(query)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_whole(name):
    dashboard = DASHBOARDS[name]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({other["uid"] for other in DASHBOARDS.values()}) == len(DASHBOARDS) == 4
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__rate_interval", "__range", "__all"}
    assert used <= variables, used - variables
    cells = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        here = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & here, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= here
