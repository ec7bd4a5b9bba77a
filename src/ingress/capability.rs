//! What each dialect's wire can and cannot do, and the table of it in README.

use std::time::Duration;

use crate::media::FRAME;

/// What a dialect's callers can say and may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether callers say what was played.
    pub marks: Marks,
    /// Whether callers can be told to throw away what was not played.
    pub clear: Clear,
    /// Whether callers tell of keys.
    pub keys_in: bool,
    /// Whether keys can be pressed towards the line.
    pub keys_out: bool,
    /// Whether the end of the call can be said in words; else closing the socket is all.
    pub says_end: bool,
    /// Only the peer closes: after the last word it is waited for so long to do so.
    pub peer_closes: Option<Duration>,
    /// Frames in one message. More than one where the provider asks for large messages.
    pub chunk_frames: usize,
    /// How far ahead audio is sent: whatever the agent's configuration says is brought into these bounds.
    pub lead: Lead,
    /// The line must never be quiet: where there is no reply, silence is sent frame by frame.
    pub fills_silence: bool,
    /// Callers send nothing while their line is silent: only the connection tells that they are there.
    pub rests: bool,
    /// Subprotocols of which the first that is offered is echoed.
    pub subprotocols: &'static [&'static str],
    /// Where a key or ticket of ours stands.
    pub credential: CredentialIn,
    /// Whether only a provider's servers speak it, and never a web page.
    pub by_provider: bool,
    /// The largest message a caller may send, in bytes. A good limit for the socket's reader too.
    pub max_message_bytes: usize,
}

impl Capabilities {
    /// What says nothing and sends 20 ms at a time: for each dialect to add to.
    pub const OF_A_PROVIDER: Self = Self {
        marks: Marks::None,
        clear: Clear::None,
        keys_in: false,
        keys_out: false,
        says_end: false,
        peer_closes: None,
        chunk_frames: 1,
        lead: Lead::ANY,
        fills_silence: false,
        rests: false,
        subprotocols: &[],
        credential: CredentialIn::Usual,
        by_provider: true,
        max_message_bytes: 64 * 1024,
    };

    /// The first subprotocol that is offered and spoken.
    #[must_use]
    pub fn subprotocol(&self, offered: &[String]) -> Option<&'static str> {
        offered.iter().find_map(|offer| {
            let known = self.subprotocols.iter();
            known.copied().find(|known| known == offer)
        })
    }
}

/// Whether and when a caller echoes marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// When played and also when thrown away, both alike: only the generation tells them apart.
    EchoedAlways,
    /// When played; those thrown away are not heard of again.
    EchoedWhenPlayed,
    /// Never: the playout clock alone says what was heard.
    None,
}

/// How what was sent and not played is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// By a message.
    Command,
    /// It cannot be: the lead is what a caller who interrupts goes on hearing.
    None,
}

/// Bounds of how far ahead audio is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// With less, the provider's buffer runs dry between two messages.
    pub at_least: Duration,
    /// With more, it overflows, or cannot be cleared.
    pub at_most: Duration,
}

impl Lead {
    /// Whatever the agent's configuration says.
    pub const ANY: Self = Self {
        at_least: Duration::ZERO,
        at_most: Duration::MAX,
    };

    /// So many milliseconds at least, and so many at most.
    #[must_use]
    pub const fn between_ms(at_least: u64, at_most: u64) -> Self {
        Self {
            at_least: Duration::from_millis(at_least),
            at_most: Duration::from_millis(at_most),
        }
    }

    /// What is wanted, brought into the bounds.
    #[must_use]
    pub fn bound(self, wanted: Duration) -> Duration {
        wanted.max(self.at_least).min(self.at_most).max(FRAME)
    }
}

/// Where a dialect's callers show a key or ticket of ours, besides the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialIn {
    /// `api-key`, `Authorization: Bearer` or the query.
    Usual,
    /// The query only: the provider needs `Authorization` for a token of its own.
    Query,
    /// As usual, but a JWT in `Authorization` is the provider's.
    NotJwt,
    /// This header, or as usual.
    Header(&'static str),
    /// The password of `Authorization: Basic`, or as usual.
    Basic,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::super::Dialect;
    use super::*;

    /// The table's place in README, and its head.
    const BEGIN: &str = "| dialect | path | marks | clear | keys in | keys out | hang-up | message | lead |\n\
                         |---|---|---|---|---|---|---|---|---|\n";

    fn row(name: &str, path: &str) -> String {
        let dialect = Dialect::by_name(name).unwrap();
        let can = dialect.capabilities();
        let marks = match can.marks {
            Marks::EchoedAlways => "played or cleared",
            Marks::EchoedWhenPlayed => "played",
            Marks::None => "none: playout clock",
        };
        let clear = match can.clear {
            Clear::Command => "yes",
            Clear::None => "no: the lead is heard",
        };
        let yes = |can: bool| if can { "yes" } else { "no" };
        let hang_up = match (can.says_end, can.peer_closes) {
            (_, Some(_)) => "message, then the peer closes",
            (true, None) => "message and close",
            (false, None) => "close",
        };
        let lead = match can.lead {
            Lead::ANY => "as set".to_owned(),
            lead if lead.at_most == Duration::MAX => {
                format!("from {} ms", lead.at_least.as_millis())
            }
            lead => format!(
                "{} to {} ms",
                lead.at_least.as_millis(),
                lead.at_most.as_millis()
            ),
        };
        let message = FRAME.as_millis() as usize * can.chunk_frames;
        let place = match path.strip_prefix('/') {
            Some(path) => format!("`/{path}/AGENT`"),
            None => "TCP".to_owned(),
        };
        let mut row = format!("| `{name}` | {place} | {marks} | {clear} | ");
        let (keys_in, keys_out) = (yes(can.keys_in), yes(can.keys_out));
        writeln!(
            row,
            "{keys_in} | {keys_out} | {hang_up} | {message} ms | {lead} |"
        )
        .unwrap();
        row
    }

    #[test]
    fn the_readme_says_what_each_dialect_can() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let readme = std::fs::read_to_string(&file).unwrap();
        let (before, rest) = readme.split_once(BEGIN).expect("the table's head");
        let end = rest.find("\n\n").expect("a line after the table") + 1;
        let rows: String = Dialect::PATHS
            .iter()
            .map(|(name, path)| row(name, path))
            .collect();
        if std::env::var_os("TRUNKLINE_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(&file, format!("{before}{BEGIN}{rows}{}", &rest[end..])).unwrap();
        } else {
            assert_eq!(&rest[..end], rows);
        }
    }

    #[test]
    fn what_is_promised_can_be_kept() {
        for (name, _) in Dialect::PATHS {
            let can = *Dialect::by_name(name).unwrap().capabilities();
            let chunk = FRAME * can.chunk_frames as u32;
            assert!(can.chunk_frames > 0, "{name}");
            assert!(
                can.lead.bound(Duration::ZERO) >= chunk,
                "{name}: a chunk never leaves"
            );
            assert!(can.lead.at_least <= can.lead.at_most, "{name}");
            // What cannot be cleared goes on for at most half a second after an interruption.
            let is_short = can.lead.at_most <= Duration::from_millis(500);
            assert!(can.clear == Clear::Command || is_short, "{name}");
        }
    }

    #[test]
    fn a_lead_is_brought_into_its_bounds() {
        let ms = Duration::from_millis;
        let check = |lead: Lead, wanted, expected| assert_eq!(lead.bound(ms(wanted)), ms(expected));
        check(Lead::ANY, 100, 100);
        check(Lead::ANY, 0, 20);
        check(Lead::between_ms(400, 600), 100, 400);
        check(Lead::between_ms(400, 600), 5_000, 600);
        check(Lead::between_ms(0, 0), 100, 20);
    }

    #[test]
    fn the_first_known_subprotocol_is_echoed() {
        let can = Capabilities {
            subprotocols: &["a.one", "a.two"],
            ..Capabilities::OF_A_PROVIDER
        };
        let offered = ["x", "a.two", "a.one"].map(str::to_owned);
        assert_eq!(can.subprotocol(&offered), Some("a.two"));
        assert_eq!(Capabilities::OF_A_PROVIDER.subprotocol(&offered), None);
    }
}
