//! What the file says of who may call: keys, certificates, and the accounts of providers.

use crate::auth::{AuthMode, Authenticator, ProviderScheme, TwilioAccounts};

use super::{Config, Mistakes};

impl Config {
    pub(super) fn build_auth(&self, mistakes: &mut Mistakes<'_>) -> Option<Authenticator> {
        let address = self.listener.address;
        if self.auth.mode == AuthMode::None && !address.ip().is_loopback() {
            let problem = format!(
                "authentication may be off on a loopback address only, and the listener is on {address}"
            );
            mistakes.add(&["auth", "mode"], problem);
        }
        let audiosocket = &self.listener.audiosocket;
        if let Some(address) = audiosocket.address
            && self.auth.mode == AuthMode::None
            && !address.ip().is_loopback()
            && self.providers.audiosocket.accounts.is_empty()
        {
            let problem =
                "without [[providers.audiosocket.accounts]] it may be a loopback address only";
            mistakes.add(&["listener", "audiosocket", "address"], problem.to_owned());
        }
        if audiosocket.call().is_none() {
            let problem =
                "AudioSocket is spoken at 8000, 12000, 16000, 24000, 32000, 44100 and 48000 Hz";
            mistakes.add(&["listener", "audiosocket", "rate"], problem.to_owned());
        }
        let agents = self.providers.audiosocket.accounts.iter().zip(1..);
        let agents = agents.filter_map(|(account, n)| Some((account.agent.as_ref()?, Some(n))));
        for (agent, n) in agents.chain(audiosocket.agent.as_ref().map(|agent| (agent, None))) {
            if self.agents.contains_key(agent) {
                continue;
            }
            let problem = format!("there is no agent {agent}");
            match n {
                Some(n) => {
                    let n = format!("{n}");
                    let path = ["providers", "audiosocket", "accounts", n.as_str(), "agent"];
                    mistakes.add(&path, problem);
                }
                None => mistakes.add(&["listener", "audiosocket", "agent"], problem),
            }
        }
        for (key, n) in self.auth.keys.iter().zip(1..) {
            if !self.tenants.contains_key(&key.tenant) {
                let problem = format!(
                    "a key is for tenant {}, and there is no such tenant",
                    key.tenant
                );
                mistakes.add(&["auth", "keys", &format!("{n}"), "tenant"], problem);
            }
        }
        for (certificate, n) in self.auth.certificates.iter().zip(1..) {
            if !self.tenants.contains_key(&certificate.tenant) {
                let problem = format!(
                    "a certificate is for tenant {}, and there is no such tenant",
                    certificate.tenant
                );
                let path = ["auth", "certificates", &format!("{n}"), "tenant"];
                mistakes.add(&path, problem);
            }
        }
        let mut providers = self.build_twilio_accounts(mistakes)?;
        let tenants = self.tenants.keys().cloned().collect();
        let public_url = self.listener.public_url.as_deref();
        match self.providers.build(&tenants, public_url) {
            Ok(others) => providers.extend(others),
            Err(found) => {
                for mistake in found {
                    let path = ["providers"].into_iter();
                    let path: Vec<&str> = path
                        .chain(mistake.path.iter().map(String::as_str))
                        .collect();
                    mistakes.add(&path, mistake.problem);
                }
                return None;
            }
        }
        Authenticator::new(&self.auth, providers, &tenants)
            .map_err(|error| {
                let path = error.field();
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                mistakes.add(&path, error.to_string());
            })
            .ok()
    }

    /// None if there is a mistake.
    fn build_twilio_accounts(&self, mistakes: &mut Mistakes<'_>) -> Option<Vec<ProviderScheme>> {
        let accounts = &self.twilio.accounts;
        if accounts.is_empty() {
            return Some(Vec::new());
        }
        for (account, n) in accounts.iter().zip(1..) {
            let mut add = |field: &str, problem: String| {
                mistakes.add(&["twilio", "accounts", &format!("{n}"), field], problem);
            };
            if !self.tenants.contains_key(&account.tenant) {
                add("tenant", format!("there is no tenant {}", account.tenant));
            }
            for agent in &account.agents {
                if !self.agents.contains_key(agent) {
                    add("agents", format!("there is no agent {agent}"));
                }
            }
        }
        let Some(public_url) = &self.listener.public_url else {
            let problem =
                "Twilio signs the address that it calls, so [listener] public_url is needed";
            mistakes.add(&["twilio", "accounts"], problem.to_owned());
            return None;
        };
        match TwilioAccounts::new(public_url, accounts) {
            Ok(accounts) => Some(vec![ProviderScheme::Twilio(accounts)]),
            Err(problems) => {
                for (index, error) in problems {
                    let path = ["twilio", "accounts", &(index + 1).to_string(), &error.field];
                    mistakes.add(&path, error.problem);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, check, commented};

    #[test]
    fn the_example_of_an_issuer_is_good() {
        let settings = commented("# [[auth.issuers]]", "\n\n", 11);
        // One of two ways to a tenant.
        let (before, rest) = settings.split_once("\ntenant = ").expect("one way");
        let (_, after) = rest.split_once('\n').expect("the other way");
        let good = GOOD.replace("mode = \"none\"", "mode = \"keys\"");
        let issuer = format!("[[auth.issuers]]\n{before}\n{after}");
        check(&format!("{good}[tenants.acme]\n{issuer}"), &[]);
    }

    #[test]
    fn mistakes_about_audiosocket_are_named_with_their_lines() {
        let account = "[[providers.audiosocket.accounts]]\ntenant = 'acme'\n";
        let uuid = "uuid = '40325ec2-5efd-4bd3-805f-53576e581d13'\n";
        let address = "[listener.audiosocket]\naddress = '10.0.0.1:9092'\n";
        let tenant = "[tenants.acme]\n";
        check(&format!("{GOOD}{tenant}{account}{uuid}{address}"), &[]);
        check(
            &format!("{GOOD}{tenant}{account}uuid = '1'\n"),
            &["line 14: providers.audiosocket.accounts.1.uuid: is no UUID"],
        );
        check(
            &format!("{GOOD}{address}agent = 'nobody'\n"),
            &[
                "line 12: listener.audiosocket.address: without [[providers.audiosocket.accounts]] it may be a loopback address only",
                "line 13: listener.audiosocket.agent: there is no agent nobody",
            ],
        );
        check(
            &format!("{GOOD}{tenant}{account}{uuid}agent = 'nobody'\n"),
            &["line 15: providers.audiosocket.accounts.1.agent: there is no agent nobody"],
        );
        check(
            &format!("{GOOD}[listener.audiosocket]\nrate = 22050\n"),
            &["line 12: listener.audiosocket.rate: AudioSocket is spoken at"],
        );
    }

    #[test]
    fn mistakes_about_credentials_are_named_with_their_lines() {
        let hash = "0".repeat(64);
        let key = format!("[[auth.keys]]\ntenant = \"acme\"\nsha256 = \"{hash}\"\n");
        let good = format!("{GOOD}[tenants.acme]\n{key}");
        check(&good, &[]);
        check(
            &format!("{good}expires = 2027-01-01T00:00:00Z\nname = \"till\"\n"),
            &[],
        );
        check(
            &format!("{good}expires = \"in May\"\n"),
            &["line 15: a date and time with an offset was expected"],
        );
        check(
            &format!("{good}{}", key.replace(&hash, "00")),
            &["line 17: auth.keys.2.sha256: key 2: sha256 must be 64"],
        );
        check(
            &format!(
                "{good}{}",
                key.replace("acme", "bolt").replace(&hash, &"1".repeat(64))
            ),
            &["line 16: auth.keys.2.tenant: a key is for tenant bolt, and there is no such tenant"],
        );
        check(
            &format!("{good}{key}"),
            &["line 17: auth.keys.2.sha256: key 2: the same key stands twice"],
        );
        check(
            &format!("{good}[auth.signing]\nsecret = \"short\"\n"),
            &["line 15: auth.signing: secret must have at least 32 bytes"],
        );
        check(
            &format!("{good}[auth.tickets]\nmax_life = \"30s\"\n"),
            &["line 15: auth.tickets: tickets are signed by the secret in [auth.signing]"],
        );
        let account = "[[twilio.accounts]]\ntenant = \"acme\"\nauth_token = \"t\"\n";
        check(
            &format!("{good}{account}"),
            &["line 15: twilio.accounts: Twilio signs the address that it calls"],
        );
        let public = format!("{good}[listener]\npublic_url = \"https://voice.example.com\"\n");
        check(&format!("{public}{account}"), &[]);
        check(
            &format!(
                "{public}{account}[[twilio.accounts]]\ntenant = \"bolt\"\nagents = [\"nobody\"]\n"
            ),
            &[
                "line 21: twilio.accounts.2.tenant: there is no tenant bolt",
                "line 22: twilio.accounts.2.agents: there is no agent nobody",
                "line 20: twilio.accounts.2.auth_token: one of auth_token, auth_token_env and auth_token_file is needed",
            ],
        );
    }
}
