//! Attacks by tickets, ephemeral keys and signatures of a provider.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::attacks::{ALL, AUDIO, DENIED, GA, Row, TWILIO, VOICE, ask, config, door, play, told};
use crate::credentials::twilio;
use crate::harness::World;
use crate::wire::{Wire, upgrade_request};

const FORM: [(&str, &str); 3] = [("CallSid", "CA1"), ("AccountSid", "AC1"), ("From", "+1555")];
const FORM_BODY: &str = "CallSid=CA1&AccountSid=AC1&From=%2B1555";

/// Posts as a known caller, whose source is not the attacker's; the answer's JSON.
async fn post(world: &World, target: &str, more: &str, body: &str) -> (String, Value) {
    let answer = World::ask(world.connect(), &post_request(target, more, body)).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (
        told(&answer),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn post_request(target: &str, more: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

async fn ticket(world: &World, more: &str, agent: &str) -> String {
    let body = json!({"agent": agent, "dialect": "audio", "expires_in": 5}).to_string();
    let (told, reply) = post(world, "/v1/tickets", more, &body).await;
    assert_eq!(told, "201", "{reply}");
    reply["ticket"].as_str().expect("a ticket").to_owned()
}

async fn ephemeral_key(world: &World) -> String {
    let after = json!({"anchor": "created_at", "seconds": 10});
    let body = json!({"session": {"type": "realtime", "model": "ga"}, "expires_after": after});
    let (told, reply) = post(world, "/v1/realtime/client_secrets", ALL, &body.to_string()).await;
    assert_eq!(told, "200", "{reply}");
    reply["value"].as_str().expect("a key").to_owned()
}

/// A ticket of `all` for agent `ga` by audio, and a request made of it by `with`.
fn ticket_row(
    name: &'static str,
    route: &'static str,
    reason: &'static str,
    with: fn(String) -> (String, String),
) -> Row {
    Row::new(4, name, DENIED, move |world| {
        async move {
            let (target, more) = with(ticket(world, ALL, "ga").await);
            ask(world, &upgrade_request(&target, &more)).await
        }
        .boxed_local()
    })
    .refused(route, "invalid_api_key")
    .denied(route, reason)
}

/// The same with an ephemeral key for model `ga`.
fn ephemeral_row(
    name: &'static str,
    outcome: &'static str,
    wait: u64,
    request: fn(&str) -> String,
) -> Row {
    Row::new(4, name, outcome, move |world| {
        async move {
            let key = ephemeral_key(world).await;
            sleep(Duration::from_secs(wait)).await;
            ask(world, &request(&format!("authorization: Bearer {key}\r\n"))).await
        }
        .boxed_local()
    })
}

#[tokio::test(start_paused = true)]
async fn by_tickets() {
    let in_path = |ticket: String| (format!("{AUDIO}/{ticket}"), String::new());
    play(vec![
        ticket_row("forged ticket", "audio", "bad_ticket", |mut ticket| {
            let last = ticket.pop().expect("not empty");
            ticket.push(if last == 'A' { 'B' } else { 'A' });
            (format!("{AUDIO}/{ticket}"), String::new())
        }),
        ticket_row("cut ticket", "audio", "bad_ticket", |ticket| {
            (
                format!("{AUDIO}/{}", &ticket[..ticket.len() - 1]),
                String::new(),
            )
        }),
        ticket_row(
            "ticket with more behind it",
            "audio",
            "bad_ticket",
            |ticket| (format!("{AUDIO}/{ticket}AAAA"), String::new()),
        ),
        ticket_row("ticket of another agent", "audio", "misplaced", |ticket| {
            (format!("/v1/audio/preview/{ticket}"), String::new())
        }),
        ticket_row(
            "ticket of another dialect",
            "twilio",
            "misplaced",
            |ticket| (format!("{TWILIO}/{ticket}"), String::new()),
        ),
        ticket_row(
            "ticket of a phone for an SDK",
            "realtime",
            "misplaced",
            |ticket| (GA.to_owned(), format!("api-key: {ticket}\r\n")),
        ),
        ticket_row(
            "ticket beside another tenant's key",
            "audio",
            "contradictory",
            |ticket| {
                (
                    format!("{AUDIO}/{ticket}"),
                    "api-key: key-of-few\r\n".to_owned(),
                )
            },
        ),
        ticket_row("two tickets", "audio", "contradictory", |ticket| {
            (
                format!("{AUDIO}/{ticket}"),
                format!("api-key: {ticket}\r\n"),
            )
        }),
        Row::new(4, "expired ticket", DENIED, move |world| {
            async move {
                let (target, _) = in_path(ticket(world, ALL, "ga").await);
                sleep(Duration::from_secs(5)).await;
                ask(world, &upgrade_request(&target, "")).await
            }
            .boxed_local()
        })
        .questions(4)
        .refused("audio", "invalid_api_key")
        .denied("audio", "expired"),
        Row::new(
            4,
            "replayed ticket",
            "101, 401 invalid_api_key",
            move |world| {
                async move {
                    let (target, _) = in_path(ticket(world, ALL, "ga").await);
                    let first = Wire::open(world, &target).await;
                    let answer = ask(world, &upgrade_request(&target, "")).await;
                    drop(first);
                    format!("101, {answer}")
                }
                .boxed_local()
            },
        )
        .refused("audio", "invalid_api_key")
        .denied("audio", "replayed")
        .dials(1),
        Row::new(4, "one ticket, 20 at once", "1 of 20", move |world| {
            async move {
                let (target, _) = in_path(ticket(world, ALL, "ga").await);
                let request = upgrade_request(&target, "");
                let all = (0..20).map(|_| ask(world, &request));
                let answers = futures_util::future::join_all(all).await;
                let n_in = answers
                    .iter()
                    .filter(|told| told.starts_with("101"))
                    .count();
                format!("{n_in} of {}", answers.len())
            }
            .boxed_local()
        })
        .counted(
            r#"trunkline_auth_denied_total{reason="replayed",route="audio"}"#,
            19.0,
        )
        .questions(4)
        .dials(1),
        Row::new(4, "ticket signed by another secret", DENIED, move |world| {
            async move {
                let other = config("").replace("s3cret", "S3CRET");
                let foreign = ticket(&World::with_config(&other, ""), ALL, "ga").await;
                ask(world, &upgrade_request(&in_path(foreign).0, "")).await
            }
            .boxed_local()
        })
        .refused("audio", "invalid_api_key")
        .denied("audio", "bad_ticket"),
        Row::new(
            27,
            "200 random tickets",
            "60 401, 140 429, others 101",
            move |world| {
                async move {
                    let mut answers = Vec::new();
                    for n in 0..200 {
                        let target = format!("{AUDIO}/tt_{n:043}");
                        answers.push(ask(world, &upgrade_request(&target, "")).await);
                    }
                    let count =
                        |told: &str| answers.iter().filter(|it| it.as_str() == told).count();
                    let (denied, blocked) = (count(DENIED), count("429 too_many_failures"));
                    let mut other = Wire::open_with(world, AUDIO, ALL).await;
                    other.close(1000, "").await;
                    other.until_close().await;
                    format!("{denied} 401, {blocked} 429, others 101")
                }
                .boxed_local()
            },
        )
        .counted(
            r#"trunkline_auth_denied_total{reason="bad_ticket",route="audio"}"#,
            60.0,
        )
        .counted(
            r#"trunkline_calls_refused_total{reason="too_many_failures",route="other"}"#,
            140.0,
        )
        .dials(1),
        Row::new(4, "ticket that asks for tickets", DENIED, |world| {
            async move {
                let more = format!("api-key: {}\r\n", ticket(world, ALL, "ga").await);
                let body = json!({"agent": "ga"}).to_string();
                ask(world, &post_request("/v1/tickets", &more, &body)).await
            }
            .boxed_local()
        })
        .denied("tickets", "misplaced"),
        ephemeral_row("expired ephemeral key", DENIED, 10, |more| {
            upgrade_request(GA, more)
        })
        .questions(5)
        .refused("realtime", "invalid_api_key")
        .denied("realtime", "expired"),
        ephemeral_row(
            "ephemeral key for another model",
            "403 permission_denied",
            0,
            |more| upgrade_request("/openai/v1/realtime?model=preview", more),
        )
        .refused("realtime", "permission_denied"),
        ephemeral_row("ephemeral key that asks for tickets", DENIED, 0, |more| {
            post_request("/v1/tickets", more, r#"{"agent":"ga"}"#)
        })
        .denied("tickets", "misplaced"),
        ephemeral_row("ephemeral key that asks for keys", DENIED, 0, |more| {
            post_request("/v1/realtime/client_secrets", more, "{}")
        })
        .refused("ephemeral_keys", "invalid_api_key")
        .denied("ephemeral_keys", "misplaced"),
        ephemeral_row("ephemeral key on a phone's route", DENIED, 0, |more| {
            upgrade_request(AUDIO, more)
        })
        .refused("audio", "invalid_api_key")
        .denied("audio", "misplaced"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn by_signatures() {
    let stream = "wss://voice.example.com/twilio/media/ga";
    let voice = "https://voice.example.com/twilio/voice/ga";
    let upgrade = |name, more: String, reason: &str| {
        door(6, name, upgrade_request(TWILIO, &more), DENIED)
            .refused("twilio", "invalid_api_key")
            .denied("twilio", reason)
    };
    let webhook = |name, more: String, body: &str, reason: &str| {
        door(6, name, post_request(VOICE, &more, body), DENIED)
            .refused("twilio", "invalid_api_key")
            .denied("twilio", reason)
    };
    let good = twilio("12345", voice, &FORM);
    let evil = twilio("12345", "https://evil.example/twilio/voice/ga", &FORM);
    play(vec![
        upgrade("stream without signature", String::new(), "missing"),
        upgrade(
            "stream signed by another token",
            twilio("99999", stream, &[]),
            "bad_signature",
        ),
        upgrade(
            "stream signed as https://",
            twilio("12345", &stream.replace("wss", "https"), &[]),
            "bad_signature",
        ),
        upgrade(
            "stream signed for another path",
            twilio("12345", &stream.replace("ga", "preview"), &[]),
            "bad_signature",
        ),
        upgrade(
            "bad signature beside a good key",
            format!("{}{ALL}", twilio("99999", stream, &[])),
            "bad_signature",
        ),
        upgrade(
            "two signatures",
            format!(
                "{}{}",
                twilio("12345", stream, &[]),
                twilio("99999", stream, &[])
            ),
            "bad_signature",
        ),
        upgrade(
            "empty signature",
            "X-Twilio-Signature: \r\n".to_owned(),
            "bad_signature",
        ),
        webhook(
            "webhook without signature",
            String::new(),
            FORM_BODY,
            "missing",
        ),
        webhook(
            "webhook with a key and no signature",
            ALL.to_owned(),
            FORM_BODY,
            "missing",
        ),
        webhook(
            "webhook whose form was changed",
            good.clone(),
            &FORM_BODY.replace("1555", "1666"),
            "bad_signature",
        ),
        webhook(
            "webhook with one field more",
            good,
            &format!("{FORM_BODY}&To=x"),
            "bad_signature",
        ),
        webhook(
            "webhook of another host",
            format!("X-Forwarded-Host: evil.example\r\n{evil}"),
            FORM_BODY,
            "bad_signature",
        ),
    ])
    .await;
}
