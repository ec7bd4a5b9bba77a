//! `trunkline metrics`: the table of all metrics, and which alerts ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::telemetry::{CATALOGUE, Label, Metric, Values, family};

use super::failed;

#[derive(Debug, Args)]
pub(super) struct MetricsArguments {
    /// A file of Prometheus's alerting or recording rules; may be given more than once. With any, the table says which
    /// alerts use a metric, and a rule that names none that exists is an error.
    #[arg(long)]
    rules: Vec<PathBuf>,
}

pub(super) fn metrics(arguments: &MetricsArguments) -> ExitCode {
    let mut rules = Rules::default();
    for path in &arguments.rules {
        match fs::read_to_string(path) {
            Ok(text) => rules.read(&text),
            Err(error) => return failed(&path.display().to_string(), &error),
        }
    }
    match table(&rules) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => failed("rules", &error),
    }
}

/// What rules ask for: their queries by their names.
#[derive(Debug, Default)]
struct Rules {
    alerts: BTreeMap<String, String>,
    records: BTreeMap<String, String>,
}

/// A rule asks for what nobody tells.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} asks for {name}, which is neither a metric nor recorded")]
struct Stranger {
    rule: String,
    name: String,
}

impl Rules {
    /// Adds the rules of a file. Of YAML it knows what such files have: a rule begins with its name, and its query ends
    /// where the next key begins.
    fn read(&mut self, text: &str) {
        let mut query: Option<&mut String> = None;
        let mut is_in_query = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("- alert:") {
                query = Some(self.alerts.entry(name.trim().to_owned()).or_default());
                is_in_query = false;
            } else if let Some(name) = line.strip_prefix("- record:") {
                query = Some(self.records.entry(name.trim().to_owned()).or_default());
                is_in_query = false;
            } else if let Some(begin) = line.strip_prefix("expr:") {
                is_in_query = true;
                if let Some(query) = &mut query {
                    query.push_str(begin);
                }
            } else if AFTER_QUERY.iter().any(|key| line.starts_with(key)) {
                is_in_query = false;
            } else if let Some(query) = query.as_mut().filter(|_| is_in_query) {
                query.push(' ');
                query.push_str(line);
            }
        }
    }

    /// The alerts of each metric, also those that ask for what is recorded of it.
    fn alerts_by_metric(&self) -> Result<BTreeMap<&'static str, BTreeSet<&str>>, Stranger> {
        for (rule, query) in &self.records {
            self.metrics_of(rule, query)?;
        }
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (alert, query) in &self.alerts {
            for metric in self.metrics_of(alert, query)? {
                found.entry(metric).or_default().insert(alert.as_str());
            }
        }
        Ok(found)
    }

    fn metrics_of(&self, rule: &str, query: &str) -> Result<BTreeSet<&'static str>, Stranger> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut queries = vec![query];
        while let Some(query) = queries.pop() {
            for name in series_in(query) {
                if let Some(metric) = family(name) {
                    found.insert(metric.name);
                } else if let Some(recorded) = self.records.get(name) {
                    if seen.insert(name) {
                        queries.push(recorded);
                    }
                } else {
                    return Err(Stranger {
                        rule: rule.to_owned(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        Ok(found)
    }
}

/// Keys of a rule and of a group that may follow a query.
const AFTER_QUERY: &[&str] = &[
    "for:",
    "keep_firing_for:",
    "labels:",
    "annotations:",
    "- name:",
];

/// The names in a text that only the gateway's series have, and what is recorded of them.
fn series_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let words = words.map(|word| word.trim_matches(':'));
    words.filter(|word| {
        let base = word.split(':').nth(1).unwrap_or(word);
        let is_ours = |prefix| base.starts_with(prefix) && base.len() > str::len(prefix);
        is_ours("trunkline_") || is_ours("process_")
    })
}

const INTRODUCTION: &str = "# Metrics

What a gateway tells on `/metrics` of its admin listener. This page is printed by

```sh
trunkline metrics --rules deploy/prometheus/alerts.rules.yaml --rules deploy/prometheus/recording.rules.yaml
```

Labels hold names of the configuration or one word of a closed set, never what a caller or a deployment said. A histogram has the series `_bucket`, `_sum` and
`_count`. Alerts count as using a metric also where they ask for what `prometheus/recording.rules.yaml` records of it.

";

fn table(rules: &Rules) -> Result<String, Stranger> {
    let alerts = rules.alerts_by_metric()?;
    let mut text = INTRODUCTION.to_owned();
    text.push_str(
        "| name | type | unit | labels | meaning | alerts |\n|---|---|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let alerts = alerts.get(metric.name).into_iter().flatten();
        let alerts = alerts.map(|alert| format!("[{alert}](RUNBOOK.md#{})", alert.to_lowercase()));
        let labels = metric
            .labels
            .iter()
            .map(|label| format!("`{}`", label.name));
        line(
            &mut text,
            format_args!(
                "| `{}` | {} | {} | {} | {} | {} |",
                metric.name,
                metric.kind.name(),
                metric.unit.name(),
                joined(labels),
                metric.help,
                joined(alerts)
            ),
        );
    }
    text.push_str("\n## Labels\n\n| label | of | values |\n|---|---|---|\n");
    for (label, of) in labels() {
        let values = match label.values {
            Values::Closed(values) => joined(values.iter().map(|value| format!("`{value}`"))),
            Values::Names(of) => of.to_owned(),
        };
        let of = of.iter().map(|metric| format!("`{}`", metric.name));
        line(
            &mut text,
            format_args!("| `{}` | {} | {values} |", label.name, joined(of)),
        );
    }
    Ok(text)
}

fn line(text: &mut String, line: fmt::Arguments<'_>) {
    // A String takes whatever is written to it.
    let _ = writeln!(text, "{line}");
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// Each label once, by name and values, with the metrics that have it so.
fn labels() -> Vec<(Label, Vec<&'static Metric>)> {
    let mut found: Vec<(Label, Vec<&Metric>)> = Vec::new();
    for metric in CATALOGUE {
        for label in metric.labels {
            let is_same = |known: &Label| known.name == label.name && known.values == label.values;
            match found.iter_mut().find(|(known, _)| is_same(known)) {
                Some((_, of)) => of.push(metric),
                None => found.push((*label, vec![metric])),
            }
        }
    }
    found.sort_by_key(|(label, _)| label.name);
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::auth::Denied;
    use crate::bridge::REALTIME;
    use crate::call::EndReason;
    use crate::ingress::{Dialect, DialectError};
    use crate::listener::Overload;
    use crate::routing::Condition;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn rules_of_deploy() -> Rules {
        let mut rules = Rules::default();
        for file in ["alerts", "recording"] {
            let path = root().join(format!("deploy/prometheus/{file}.rules.yaml"));
            rules.read(&fs::read_to_string(path).unwrap());
        }
        assert!(rules.alerts.len() > 20 && rules.records.len() > 20);
        rules
    }

    #[test]
    fn the_page_in_deploy_is_what_is_printed() {
        let kept = fs::read_to_string(root().join("deploy/METRICS.md")).unwrap_or_default();
        let printed = table(&rules_of_deploy()).unwrap();
        let difference = printed
            .lines()
            .zip(kept.lines())
            .find(|(new, old)| new != old);
        assert!(
            printed == kept,
            "deploy/METRICS.md is stale, print it anew as it says at its top; first difference: {difference:?}"
        );
    }

    #[test]
    fn every_alert_asks_for_a_metric_of_the_gateway_or_for_its_absence() {
        let rules = rules_of_deploy();
        let used: BTreeSet<_> = rules
            .alerts_by_metric()
            .unwrap()
            .into_values()
            .flatten()
            .collect();
        let others: Vec<_> = rules
            .alerts
            .keys()
            .filter(|alert| !used.contains(alert.as_str()))
            .collect();
        // Prometheus itself says whether it was answered.
        assert_eq!(others, ["TrunklineDown"]);
    }

    #[test]
    fn rules_that_ask_for_what_is_not_there_are_named() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let mut rules = Rules::default();
            rules.read(text);
            let found = rules.alerts_by_metric().err();
            let found = found
                .as_ref()
                .map(|it| (it.rule.as_str(), it.name.as_str()));
            assert_eq!(found, expected, "{text}");
        };
        let alert = |query: &str| format!("- alert: A\n  expr: {query}\n  for: 1m\n");
        check(&alert("trunkline_draining == 1"), None);
        check(&alert("process_open_fds > 1"), None);
        check(&alert("rate(trunkline_frame_seconds_bucket[5m]) > 1"), None);
        check(
            &alert("trunkline_made_up > 1"),
            Some(("A", "trunkline_made_up")),
        );
        check(
            &alert("process_made_up > 1"),
            Some(("A", "process_made_up")),
        );
        check(
            &alert("trunkline_draining_sum > 1"),
            Some(("A", "trunkline_draining_sum")),
        );
        check(
            &alert("|\n    up\n      > trunkline_made_up"),
            Some(("A", "trunkline_made_up")),
        );
        let record = "- record: job:trunkline_x:sum\n  # of trunkline_old\n  expr: sum(trunkline_draining)\n";
        check(&(alert("job:trunkline_x:sum > 1") + record), None);
        check(
            &alert("job:trunkline_x:sum > 1"),
            Some(("A", "job:trunkline_x:sum")),
        );
        let record = "- record: job:trunkline_x:sum\n  expr: sum(trunkline_made_up)\n";
        check(record, Some(("job:trunkline_x:sum", "trunkline_made_up")));
    }

    #[test]
    fn an_alert_on_what_is_recorded_stands_beside_the_metric() {
        let mut rules = Rules::default();
        rules.read(
            "groups:\n- name: a\n  rules:\n  - alert: Gone\n    expr: job:trunkline_ready:count < 1\n    labels: { severity: page }\n\
             \x20 - record: job:trunkline_ready:count\n    expr: |\n      count(\n        trunkline_draining == 0\n      )\n",
        );
        let page = table(&rules).unwrap();
        let line = page
            .lines()
            .find(|line| line.contains("`trunkline_draining`"))
            .unwrap();
        assert!(line.ends_with("| [Gone](RUNBOOK.md#gone) |"), "{line}");
        let others = page.lines().filter(|line| line.contains("[Gone]")).count();
        assert_eq!(others, 1);
    }

    /// Dashboards, scaling rules, guides: whatever names a series, names one that there is.
    #[test]
    fn nothing_in_deploy_or_the_guide_names_a_metric_that_is_not_there() {
        let rules = rules_of_deploy();
        let mut files = vec![root().join("README.md")];
        let mut folders = vec![root().join("deploy")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path)
                } else {
                    files.push(path)
                }
            }
        }
        let mut n_named = 0;
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let ours = series_in(&text).filter(|name| name.contains("trunkline_"));
            for name in ours {
                n_named += 1;
                let is_known = family(name).is_some() || rules.records.contains_key(name);
                assert!(is_known, "{} names {name}", file.display());
            }
        }
        assert!(n_named > 300, "{n_named}");
    }

    #[test]
    fn closed_sets_are_those_of_the_code() {
        let check = |label: &str, metric: &str, expected: BTreeSet<&str>| {
            let metric = CATALOGUE.iter().find(|it| it.name == metric).unwrap();
            let label = metric.labels.iter().find(|it| it.name == label).unwrap();
            let Values::Closed(values) = label.values else {
                panic!("{} is open", label.name);
            };
            let values: BTreeSet<_> = values.iter().copied().collect();
            assert_eq!(values, expected, "{} of {}", label.name, metric.name);
        };
        let end_reasons = EndReason::ALL.iter().map(|reason| reason.name());
        check("end_reason", "trunkline_calls_total", end_reasons.collect());
        let dialects = || Dialect::NAMES.iter().copied().chain([REALTIME]);
        check("dialect", "trunkline_calls_total", dialects().collect());
        let routes = dialects().chain(["tickets", "ephemeral_keys", "other"]);
        check("route", "trunkline_calls_refused_total", routes.collect());
        let conditions = Condition::ALL.iter().map(|condition| condition.name());
        check(
            "condition",
            "trunkline_deployment_condition",
            conditions.collect(),
        );
        let overloads = Overload::ALL.iter().map(|overload| overload.name());
        check("reason", "trunkline_shedding", overloads.collect());
        let denied = CATALOGUE
            .iter()
            .find(|it| it.name == "trunkline_auth_denied_total")
            .unwrap();
        assert!(denied.labels[1].allows(Denied::Replayed.name()));
        let bad_input = CATALOGUE
            .iter()
            .find(|it| it.name == "trunkline_bad_input_total")
            .unwrap();
        for name in DialectError::NAMES {
            assert!(bad_input.labels[1].allows(name), "{name}");
        }
    }
}
