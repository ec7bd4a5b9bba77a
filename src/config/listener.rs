//! What the file says of where callers and operators come in.

use std::sync::Arc;

use crate::admin::Access;
use crate::listener::{Alpn, AsteriskServers, Tls, is_origin, is_public_url};

use super::{Config, Mistakes};

impl Config {
    pub(super) fn check_listeners(&self, mistakes: &mut Mistakes<'_>) {
        let admin = &self.admin;
        if let Err((field, problem)) = Access::new(admin) {
            let path = std::iter::once("admin").chain(field.iter().map(String::as_str));
            mistakes.add(&path.collect::<Vec<_>>(), problem);
        }
        if !admin.address.ip().is_loopback() && !admin.public && !admin.is_guarded() {
            let problem = format!(
                "metrics need no key, and {} is no loopback address; set a token, ask for client certificates, or if only \
                 operators can reach it, say so by public = true",
                admin.address
            );
            mistakes.add(&["admin", "address"], problem);
        }
        for (field, problem) in self.listener.limits.mistakes() {
            mistakes.add(&["listener", "limits", field], problem);
        }
        for (field, problem) in self.listener.shed.mistakes() {
            mistakes.add(&["listener", "shed", field], problem);
        }
        for origin in &self.listener.allowed_origins {
            if !is_origin(origin) {
                let problem = format!(
                    "{origin} is no origin as browsers write it, like https://app.example.com or http://localhost:3000"
                );
                mistakes.add(&["listener", "allowed_origins"], problem);
            }
        }
        for (path, problem) in self.listener.callers.mistakes() {
            let path: Vec<&str> = ["listener", "callers"].into_iter().chain(path).collect();
            mistakes.add(&path, problem);
        }
        if let Some(url) = &self.listener.public_url
            && !is_public_url(url)
        {
            let problem = format!("{url} is no address like wss://voice.example.com");
            mistakes.add(&["listener", "public_url"], problem);
        }
        if self.listener.max_connections == Some(0) {
            mistakes.add(
                &["listener", "max_connections"],
                "with none, nobody could call".to_owned(),
            );
        }
    }

    pub(super) fn build_tls(&self, mistakes: &mut Mistakes<'_>) -> Option<Arc<Tls>> {
        let asks_for_certificates = self
            .listener
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca_file.is_some());
        if !self.auth.certificates.is_empty() && !asks_for_certificates {
            let problem = "callers are not asked for certificates: set client_ca_file and client_auth in [listener.tls]";
            mistakes.add(&["auth", "certificates"], problem.to_owned());
        }
        let config = self.listener.tls.as_ref()?;
        Tls::load(config, Alpn::Http1)
            .map_err(|error| mistakes.add(&["listener", "tls", error.field()], error.to_string()))
            .ok()
            .map(Arc::new)
    }

    pub(super) fn build_asterisk(&self, mistakes: &mut Mistakes<'_>) -> AsteriskServers {
        let mut built = AsteriskServers::default();
        for (name, config) in &self.listener.asterisk.servers {
            let mut add = |field, problem| {
                mistakes.add(&["listener", "asterisk", "servers", name, field], problem);
            };
            if let Err(error) = built.add(name, config) {
                add(error.field, error.to_string());
            }
            if let Some(tenant) = &config.tenant
                && !self.tenants.contains_key(tenant)
            {
                add("tenant", format!("there is no tenant {tenant}"));
            }
        }
        built
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, check, commented};

    #[test]
    fn mistakes_about_servers_of_asterisk_are_named_with_their_lines() {
        let server = "[listener.asterisk.servers.main]\n";
        check(&format!("{GOOD}{server}url = 'ws://127.0.0.1:8088'\n"), &[]);
        check(
            &format!("{GOOD}{server}url = 'ws://10.0.0.5:8088'\ntenant = 'nobody'\n"),
            &[
                "line 12: listener.asterisk.servers.main.url: plain text is for loopback only",
                "line 13: listener.asterisk.servers.main.tenant: there is no tenant nobody",
            ],
        );
        let text = commented("# [listener.asterisk.servers.main]", "\n\n", 5);
        let text = text.replace("/etc/trunkline/", "/no/");
        check(
            &format!("{GOOD}[tenants.acme]\n{server}{text}\n"),
            &["line 15: listener.asterisk.servers.main.ca_file: /no/pbx-ca.pem cannot be read"],
        );
    }
}
