//! What the file says of each tenant.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::bridge::TenantPolicy;
use crate::quota::TenantQuota;
use crate::realtime::{SessionPolicy, SessionPolicyConfig, Shape};

use super::{Config, Mistakes};

/// One `[tenants.NAME]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// Deployments that its SDK callers may use, by name or alias; empty for all.
    pub models: Vec<String>,
    /// Agents that its phones and audio clients may reach; empty for all.
    pub agents: Vec<String>,
    /// Shape of events that its SDK callers speak, whatever their URL says. For clients that build the URL of one
    /// shape and speak the other, as openai-python's GA client does on `AsyncAzureOpenAI` (openai-python#2638).
    pub caller_shape: Option<Shape>,
    /// What its SDK callers may do with the sessions that they conduct; without it, anything.
    pub session: Option<SessionPolicyConfig>,
    /// What it may use; without it, anything.
    pub quota: TenantQuota,
}

impl Config {
    pub(super) fn build_session_policies(
        &self,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, TenantPolicy> {
        let mut built = BTreeMap::new();
        for (name, tenant) in &self.tenants {
            match tenant.session.as_ref().map(SessionPolicy::new) {
                Some(Ok(policy)) => {
                    let policy = TenantPolicy {
                        tenant: name.clone(),
                        policy: Arc::new(policy),
                    };
                    built.insert(name.clone(), policy);
                }
                Some(Err(found)) => {
                    for mistake in found {
                        let mut path = vec!["tenants", name, "session"];
                        path.extend(mistake.path.iter().map(String::as_str));
                        mistakes.add(&path, mistake.problem);
                    }
                }
                None => {}
            }
        }
        built
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::tests::{GOOD, check, commented};
    use crate::realtime::Shape;

    #[test]
    fn a_tenant_may_pin_the_shape_of_its_callers() {
        let text = format!(
            "{GOOD}[tenants.old]\ncaller_shape = \"preview\"\n[tenants.new]\ncaller_shape = \"ga\"\n[tenants.any]\n"
        );
        let routes = Config::parse(&text).unwrap().build(&text).unwrap();
        assert_eq!(routes.caller_shape("old", Shape::Ga), Shape::Preview);
        assert_eq!(routes.caller_shape("new", Shape::Preview), Shape::Ga);
        assert_eq!(routes.caller_shape("any", Shape::Preview), Shape::Preview);
        assert_eq!(routes.caller_shape("any", Shape::Ga), Shape::Ga);
        check(
            &format!("{GOOD}[tenants.old]\ncaller_shape = \"beta\"\n"),
            &["line 12: unknown variant `beta`"],
        );
    }

    #[test]
    fn mistakes_in_a_session_policy_are_named_with_their_lines() {
        let check = |policy: &str, expected: &[&str]| {
            check(&format!("{GOOD}[tenants.acme.session]\n{policy}"), expected);
        };
        check(
            "instructions_prefix = \"Be kind.\"\npinned = { voice = \"marin\" }\nforbidden = [\"tracing\"]\n",
            &[],
        );
        check(
            "pinned = { voice = \"marin\" }\nforbidden = [\"tools\", \"tracking\"]\n",
            &[
                "line 13: tenants.acme.session.forbidden: neither a session nor a response has a field tracking",
            ],
        );
        check(
            "[tenants.acme.session.pinned]\nvoice = \"marin\"\naudio.output.sped = 1.0\n",
            &[
                "line 14: tenants.acme.session.pinned.audio.output.sped: a session has no setting audio.output.sped",
            ],
        );
        check(
            "max_output_tokens = 5000\n",
            &["line 12: tenants.acme.session.max_output_tokens: must be 1 to 4096"],
        );
        check("pined = {}\n", &["line 12: unknown field `pined`"]);
        check(
            "tool_types = [\"web\"]\n",
            &["line 12: unknown variant `web`"],
        );
    }

    #[test]
    fn the_commented_session_policy_of_the_example_is_a_good_one() {
        let text = commented("# [tenants.acme.session]", "\n\n", 13);
        check(&format!("{GOOD}[tenants.acme.session]\n{text}\n"), &[]);
    }
}
