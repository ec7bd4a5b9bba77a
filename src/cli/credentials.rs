//! `trunkline key` and `trunkline ticket`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use secrecy::ExposeSecret;

use crate::auth::{AuthMode, TENANT_WITHOUT_AUTH, hash_key};
use crate::config::Config;
use crate::listener::Routes;

use super::{failed, with_config};

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    /// Whose key it is.
    tenant: String,
    /// When it expires: a time from now (`90d`) or a moment (`2027-01-01T00:00:00Z`). Without, never.
    #[arg(long, value_parser = expiry)]
    expires: Option<Expiry>,
    /// What it is called, for people.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TicketArguments {
    /// The configuration file, with the secret that signs.
    #[arg(long, env = "TRUNKLINE_CONFIG")]
    config: PathBuf,
    /// Whose caller it is for.
    #[arg(long)]
    tenant: String,
    /// The agent that it may reach; for the dialect `realtime` the model.
    #[arg(long)]
    agent: String,
    /// By which dialect: `twilio`, `audio` or `realtime`.
    #[arg(long, default_value = "twilio")]
    dialect: String,
    /// How long it is good, as long as is allowed if not said.
    #[arg(long, value_parser = humantime::parse_duration)]
    life: Option<Duration>,
}

/// As it was written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    After(Duration),
    At(SystemTime),
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(after) = humantime::parse_duration(text) {
        return Ok(Expiry::After(after));
    }
    humantime::parse_rfc3339(text).map(Expiry::At).map_err(|_| {
        "a time like 90d or a moment like 2027-01-01T00:00:00Z was expected".to_owned()
    })
}

/// Prints a new key and the table for it.
pub(super) fn key(arguments: &KeyArguments) -> ExitCode {
    let now = SystemTime::now();
    let expires = match arguments.expires {
        None => None,
        Some(Expiry::At(at)) => Some(at),
        Some(Expiry::After(after)) => match now.checked_add(after) {
            Some(at) => Some(at),
            None => return failed("cannot make a key", &"it would expire too late"),
        },
    };
    if expires.is_some_and(|at| at <= now) {
        return failed("cannot make a key", &"it would have expired already");
    }
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        return failed("no randomness", &error);
    }
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!("tk-{key}");
    println!("key, shown this once: {key}");
    println!("\n{}", key_table(arguments, &key, expires));
    ExitCode::SUCCESS
}

fn key_table(arguments: &KeyArguments, key: &str, expires: Option<SystemTime>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut table = format!(
        "[[auth.keys]]\ntenant = {}\nsha256 = \"{}\"",
        quoted(&arguments.tenant),
        hash_key(key)
    );
    if let Some(at) = expires {
        table.push_str(&format!(
            "\nexpires = {}",
            humantime::format_rfc3339_seconds(at)
        ));
    }
    if let Some(name) = &arguments.name {
        table.push_str(&format!("\nname = {}", quoted(name)));
    }
    table
}

/// Prints a new ticket and where to go with it.
pub(super) fn ticket(arguments: &TicketArguments) -> ExitCode {
    with_config(&arguments.config, |loaded| {
        match make_ticket(arguments, &loaded.config, &loaded.routes) {
            Ok(lines) => {
                println!("{lines}");
                ExitCode::SUCCESS
            }
            Err(problem) => failed("cannot make a ticket", &problem),
        }
    })
}

fn make_ticket(
    arguments: &TicketArguments,
    config: &Config,
    routes: &Routes,
) -> Result<String, String> {
    let TicketArguments {
        tenant,
        agent,
        dialect,
        life,
        ..
    } = arguments;
    let is_open = config.auth.mode == AuthMode::None && tenant == TENANT_WITHOUT_AUTH;
    if !is_open && !config.tenants.contains_key(tenant) {
        return Err(format!("there is no tenant {tenant}"));
    }
    routes
        .check_reach(tenant, dialect, agent)
        .map_err(|refusal| refusal.message.into_owned())?;
    let made = routes.auth.make_ticket(tenant, dialect, agent, *life);
    let ticket = made.map_err(|error| error.to_string())?;
    let value = ticket.value.expose_secret();
    Ok(match config.listener.ticket_url(dialect, agent, value) {
        Some(url) => format!("{value}\n{url}"),
        None => value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_time_or_a_moment() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(
            expiry("90d"),
            Ok(Expiry::After(Duration::from_secs(90 * 86_400)))
        );
        assert_eq!(
            expiry("2027-01-01T00:00:00Z"),
            Ok(Expiry::At(at(1_798_761_600)))
        );
        for bad in ["", "90", "tomorrow", "2027-01-01"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        let arguments = KeyArguments {
            tenant: "a\"cme".to_owned(),
            expires: None,
            name: Some("till 7".to_owned()),
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600);
        let table = key_table(&arguments, "k", Some(at));
        let text = format!("[deployments]\n{table}\n");
        let config = Config::parse(&text).unwrap();
        let [key] = &config.auth.keys[..] else {
            panic!("one key in {text}");
        };
        assert_eq!(key.tenant, "a\"cme");
        assert_eq!(key.sha256, hash_key("k"));
        assert_eq!(key.expires, Some(1_798_761_600));
        assert_eq!(key.name.as_deref(), Some("till 7"));
    }

    #[test]
    fn a_ticket_is_made_for_whom_there_is() {
        let text = "[listener]\npublic_url = 'wss://voice.example.com/'\n\
            [auth.signing]\nsecret = '0123456789abcdef0123456789abcdef'\n[tenants.acme]\nagents = ['desk']\n\
            [deployments.d]\nurl = 'ws://127.0.0.1:1'\nmodel = 'm'\n[agents.desk]\ndeployment = 'd'\n\
            [agents.door]\ndeployment = 'd'\n";
        let config = Config::parse(text).unwrap();
        let routes = config.build(text).unwrap();
        let make = |tenant: &str, agent: &str, dialect: &str, life: Option<u64>| {
            let arguments = TicketArguments {
                config: PathBuf::new(),
                tenant: tenant.to_owned(),
                agent: agent.to_owned(),
                dialect: dialect.to_owned(),
                life: life.map(Duration::from_secs),
            };
            make_ticket(&arguments, &config, &routes)
        };
        let check = |dialect: &str, agent: &str, begin: &str| {
            let lines = make("acme", agent, dialect, None).unwrap();
            let (ticket, url) = lines.split_once('\n').unwrap();
            assert!(ticket.starts_with("tt_"), "{lines}");
            assert_eq!(url, format!("{begin}{ticket}"));
        };
        check(
            "twilio",
            "desk",
            "wss://voice.example.com/twilio/media/desk/",
        );
        check("audio", "desk", "wss://voice.example.com/v1/audio/desk/");
        check(
            "realtime",
            "d",
            "wss://voice.example.com/v1/realtime?model=d&ticket=",
        );
        assert!(make("acme", "desk", "twilio", Some(60)).is_ok());
        for (tenant, agent, dialect, life) in [
            ("nobody", "desk", "twilio", None),
            ("default", "desk", "twilio", None),
            ("acme", "door", "twilio", None),
            ("acme", "nobody", "twilio", None),
            ("acme", "desk", "smoke", None),
            ("acme", "nothing", "realtime", None),
            ("acme", "desk", "twilio", Some(61)),
            ("acme", "desk", "twilio", Some(0)),
        ] {
            let made = make(tenant, agent, dialect, life);
            assert!(made.is_err(), "{tenant} {agent} {dialect} {life:?}");
        }
    }
}
