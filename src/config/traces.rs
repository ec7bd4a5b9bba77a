//! What the file says of traces.

use crate::traces::TracesPlan;

use super::warnings::is_open;
use super::{Config, Mistakes};

impl Config {
    pub(super) fn build_traces(&self, mistakes: &mut Mistakes<'_>) -> TracesPlan {
        self.traces.plan().unwrap_or_else(|found| {
            for (path, problem) in found {
                let path = std::iter::once("traces").chain(path.iter().map(String::as_str));
                mistakes.add(&path.collect::<Vec<_>>(), problem);
            }
            TracesPlan::default()
        })
    }

    pub(super) fn warn_of_traces(&self, found: &mut Mistakes<'_>) {
        let endpoint = self.traces.endpoint.as_ref();
        if endpoint.is_some_and(|url| is_open(url)) && !self.traces.headers.is_empty() {
            found.warn(
                &["traces", "endpoint"],
                "the headers cross the network in plain text: use https://",
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
        let (found, _) = said("[traces]\nsample = 2.0\nendpoint = 'collector'\n");
        let expected = ["line 7: traces.sample: ", "line 8: traces.endpoint: "];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}, not {expected}");
        }
        let bad = "[traces]\nendpoints = 'x'\n";
        assert_eq!(said(bad).0.len(), 1);
    }

    #[test]
    fn secrets_that_others_may_read_are_warned_of() {
        let has = |more: &str, expected: &str| {
            let (mistakes, warnings) = said(more);
            assert_eq!(mistakes, [] as [String; 0]);
            warnings.iter().any(|it| it.contains(expected))
        };
        let plain = "traces.endpoint: the headers cross";
        let header = "[traces.headers.authorization]\nvalue = 'Bearer x'\n";
        let at = |url: &str| format!("[traces]\nendpoint = '{url}'\n");
        assert!(has(&format!("{}{header}", at("http://c.example/t")), plain));
        assert!(!has(&at("http://c.example/t"), plain));
        assert!(!has(
            &format!("{}{header}", at("http://127.0.0.1/t")),
            plain
        ));
        assert!(!has(
            &format!("{}{header}", at("https://c.example/t")),
            plain
        ));
        assert!(has(
            header,
            "traces.headers.authorization.value: stands in the file"
        ));
    }

    #[test]
    fn the_example_is_what_holds_without_it_and_its_commented_lines_are_good() {
        let example = include_str!("../../deploy/trunkline.toml");
        let config = Config::parse(example).expect("good");
        let usual = crate::traces::TracesConfig::default();
        assert_eq!(format!("{:?}", config.traces), format!("{usual:?}"));
        let (_, rest) = example.split_once("\n[traces]\n").expect("the table");
        let (rest, _) = rest.split_once("\n[records]").expect("its end");
        let lines = rest.lines();
        let lines = lines.map(|line| line.strip_prefix("# ").unwrap_or(line));
        let settings = lines.filter(|line| line.starts_with('[') || line.contains(" = "));
        let given: Vec<&str> = settings.collect();
        let given = given.join("\n").replace(
            "value_env = \"TRUNKLINE_TRACES_AUTHORIZATION\"",
            "value = \"Bearer x\"",
        );
        let (found, _) = said(&format!("[traces]\n{given}\n"));
        assert_eq!(found, [] as [String; 0], "{given}");
        assert_eq!(given.lines().count(), 12, "{given}");
    }
}
