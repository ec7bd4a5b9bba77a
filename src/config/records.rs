//! What the file says of call records.

use crate::records::{CallerForm, RecordsPlan, SinkKind};

use super::warnings::is_open;
use super::{Config, Mistakes};

impl Config {
    pub(super) fn build_records(&self, mistakes: &mut Mistakes<'_>) -> RecordsPlan {
        self.records.plan().unwrap_or_else(|found| {
            for (path, problem) in found {
                let path = std::iter::once("records").chain(path.iter().map(String::as_str));
                mistakes.add(&path.collect::<Vec<_>>(), problem);
            }
            RecordsPlan::default()
        })
    }

    pub(super) fn warn_of_records(&self, found: &mut Mistakes<'_>) {
        let records = &self.records;
        let webhook = records.webhook.as_ref();
        if webhook.is_some_and(|webhook| is_open(&webhook.url)) {
            found.warn(
                &["records", "webhook", "url"],
                "records cross the network in plain text: use https://",
            );
        }
        let says_much = records.transcripts || records.caller == CallerForm::Plain;
        if records.sink == SinkKind::Log && says_much {
            found.warn(
                &["records", "sink"],
                "numbers and words stand in the log, for all who may read it",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::tests::said;

    #[test]
    fn mistakes_are_named_with_their_lines() {
        let (found, _) = said("[records]\nsink = 'file'\nparameters = true\n");
        let expected = ["line 8: records.parameters: ", "line 6: records.file: "];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}, not {expected}");
        }
        let bad = "[records]\nsink = 'paper'\n";
        assert_eq!(said(bad).0.len(), 1);
    }

    #[test]
    fn what_others_may_read_is_warned_of() {
        let url = |url: &str| {
            format!(
                "[records]\nsink = 'webhook'\n[records.webhook]\nurl = '{url}'\n\
                 secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\nspool = {{ directory = '/x' }}\n"
            )
        };
        let has = |more: &str, expected: &str| {
            let (mistakes, warnings) = said(more);
            assert_eq!(mistakes, [] as [String; 0]);
            warnings.iter().any(|it| it.contains(expected))
        };
        let plain = "records.webhook.url: records cross";
        assert!(has(&url("http://collector.example/c"), plain));
        assert!(!has(&url("http://127.0.0.1:9/c"), plain));
        assert!(!has(&url("https://collector.example/c"), plain));
        let written = "records.webhook.secret: stands in the file";
        assert!(has(&url("https://collector.example/c"), written));
        let log = "records.sink: numbers and words";
        assert!(has("[records]\nsink = 'log'\ntranscripts = true\n", log));
        assert!(!has("[records]\nsink = 'log'\n", log));
    }

    #[test]
    fn the_example_is_what_holds_without_it_and_its_commented_lines_are_good() {
        let example = include_str!("../../deploy/trunkline.toml");
        let config = Config::parse(example).expect("good");
        let usual = crate::records::RecordsConfig::default();
        assert_eq!(format!("{:?}", config.records), format!("{usual:?}"));
        let (_, rest) = example.split_once("\n[records]\n").expect("the table");
        let (rest, _) = rest.split_once("\n[drain]").expect("its end");
        let lines = rest
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line));
        let settings = lines.filter(|line| line.starts_with('[') || line.contains(" = "));
        // Prose may speak of a setting.
        let settings = settings.filter(|line| !line.ends_with('.') && !line.starts_with("For "));
        let settings: Vec<&str> = settings.collect();
        let given = settings.join("\n").replace(
            "secret_env = \"TRUNKLINE_RECORDS_SECRET\"",
            "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"",
        );
        let given = given.replace("caller_secret_env = \"TRUNKLINE_CALLER_SECRET\"\n", "");
        let given = given.replace("\"off\"", "\"webhook\"");
        let (found, _) = said(&format!("[records]\n{given}\n"));
        assert_eq!(found, [] as [String; 0], "{given}");
        assert_eq!(given.lines().count(), 14, "{given}");
    }
}
