//! One row a dialect: how it is called, by what credential, and what its wire cannot express.

use trunkline::media::{AudioFormat, Codec, SampleRate};
use trunkline::simulator::SoftPhone;
use trunkline::simulator::phone_dialect::Dialect;

use crate::proofs;
use crate::scenarios::Scenario::{self, Dtmf, Garbage, Keepalive, MarkAfterClear};

/// A dialect as the scenarios see it.
pub(crate) struct Row {
    pub(crate) dialect: Dialect,
    /// The codec, if it is not the phone's usual one, and what the address says for it.
    pub(crate) codec: Option<(AudioFormat, &'static str)>,
    /// Tables of the configuration by which its callers are let in.
    pub(crate) accounts: fn() -> String,
    /// Whether these are let in by keys that have to be fetched.
    pub(crate) fetches_keys: bool,
    /// Shows a good credential, by the dialect's own scheme.
    pub(crate) good: fn(SoftPhone) -> SoftPhone,
    /// Shows one of the same kind that is not good.
    pub(crate) bad: fn(SoftPhone) -> SoftPhone,
    /// What the wire cannot express, and why.
    pub(crate) limits: &'static [(Scenario, &'static str)],
}

const NO_KEEPALIVE: (Scenario, &str) = (
    Keepalive,
    "has no keepalive of its own; the WebSocket's ping keeps it",
);

const NO_MARKS: (Scenario, &str) = (
    MarkAfterClear,
    "has no marks: the playout clock says what was heard",
);

const ALAW: AudioFormat = AudioFormat {
    codec: Codec::Alaw,
    rate: SampleRate::HZ_8000,
};

impl Row {
    /// The gateway's name for it: one of its dialects has two forms.
    pub(crate) fn wire(&self) -> &'static str {
        self.dialect.name().trim_end_matches("-protobuf")
    }

    /// As the table has it.
    pub(crate) fn name(&self) -> String {
        match self.codec {
            Some((format, _)) => format!("{} {}", self.dialect.name(), format.codec.name()),
            None => self.dialect.name().to_owned(),
        }
    }
}

const ASTERISK: Row = Row {
    dialect: Dialect::Asterisk,
    codec: None,
    accounts: String::new,
    fetches_keys: false,
    good: |phone| proofs::basic(phone, proofs::KEY),
    bad: |phone| proofs::basic(phone, "tk_another"),
    limits: &[NO_KEEPALIVE],
};

const TELNYX: Row = Row {
    dialect: Dialect::Telnyx,
    codec: None,
    accounts: String::new,
    fetches_keys: false,
    good: |phone| proofs::telnyx(phone, proofs::KEY),
    bad: |phone| proofs::telnyx(phone, "tk_another"),
    limits: &[NO_KEEPALIVE],
};

const SIGNALWIRE: Row = Row {
    dialect: Dialect::SignalWire,
    codec: None,
    accounts: String::new,
    fetches_keys: false,
    good: |phone| phone.api_key(proofs::KEY),
    bad: |phone| phone.api_key("tk_another"),
    limits: &[NO_KEEPALIVE],
};

/// In the order of [`trunkline::ingress::Dialect::NAMES`].
pub(crate) const ROWS: &[Row] = &[
    Row {
        dialect: Dialect::Twilio,
        codec: None,
        accounts: proofs::twilio_accounts,
        fetches_keys: false,
        good: |phone| proofs::twilio(phone, proofs::TWILIO_TOKEN),
        bad: |phone| proofs::twilio(phone, "another token"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::Audio,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::KEY),
        bad: |phone| phone.api_key("tk_another"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::AudioProtobuf,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::KEY),
        bad: |phone| phone.api_key("tk_another"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::Acs,
        codec: None,
        accounts: proofs::acs_accounts,
        fetches_keys: true,
        good: |phone| phone.api_key(proofs::acs_token("resource-1", 300)),
        bad: |phone| phone.api_key(proofs::acs_token("resource-2", 300)),
        limits: &[NO_KEEPALIVE, NO_MARKS],
    },
    Row {
        dialect: Dialect::Genesys,
        codec: None,
        accounts: proofs::genesys_accounts,
        fetches_keys: false,
        good: |phone| {
            phone
                .api_key(proofs::GENESYS_KEY)
                .client_secret(proofs::GENESYS_SECRET)
        },
        bad: |phone| {
            phone
                .api_key(proofs::GENESYS_KEY)
                .client_secret("YW5vdGhlciBzZWNyZXQ=")
        },
        limits: &[NO_MARKS],
    },
    ASTERISK,
    // Control in words instead of JSON.
    Row {
        codec: Some((AudioFormat::ULAW_8K, "?f=plain-text")),
        ..ASTERISK
    },
    Row {
        codec: Some((AudioFormat::G722, "")),
        ..ASTERISK
    },
    // One that is too old for marks.
    Row {
        codec: Some((ALAW, "?f=plain-text&marks=none")),
        limits: &[NO_KEEPALIVE, NO_MARKS],
        ..ASTERISK
    },
    Row {
        dialect: Dialect::AudioSocket,
        codec: None,
        accounts: proofs::audiosocket_accounts,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::AUDIOSOCKET_UUID),
        bad: |phone| phone.api_key("40325ec2-5efd-4bd3-805f-53576e581d14"),
        limits: &[NO_MARKS],
    },
    Row {
        dialect: Dialect::Vonage,
        codec: None,
        accounts: proofs::vonage_accounts,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::vonage_token(proofs::VONAGE_SECRET)),
        bad: |phone| phone.api_key(proofs::vonage_token("another secret")),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::Infobip,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::KEY),
        bad: |phone| phone.api_key("tk_another"),
        limits: &[NO_KEEPALIVE, NO_MARKS],
    },
    TELNYX,
    Row {
        codec: Some((AudioFormat::G722, "?stream_bidirectional_codec=G722")),
        ..TELNYX
    },
    Row {
        dialect: Dialect::Jambonz,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| proofs::jambonz(phone, proofs::KEY),
        bad: |phone| proofs::jambonz(phone, "tk_another"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::FreeSwitch,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::KEY),
        bad: |phone| phone.api_key("tk_another"),
        limits: &[
            NO_KEEPALIVE,
            NO_MARKS,
            (Dtmf, "tells of no keys: they are the event socket's affair"),
            (Garbage, "lets the dialplan send any text at any time"),
        ],
    },
    Row {
        dialect: Dialect::Plivo,
        codec: None,
        accounts: || proofs::plivo_accounts("plivo"),
        fetches_keys: false,
        good: |phone| proofs::plivo(phone, "plivo", proofs::PLIVO_TOKEN),
        bad: |phone| proofs::plivo(phone, "plivo", "another token"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::Vobiz,
        codec: None,
        accounts: || proofs::plivo_accounts("vobiz"),
        fetches_keys: false,
        good: |phone| proofs::plivo(phone, "vobiz", proofs::PLIVO_TOKEN),
        bad: |phone| proofs::plivo(phone, "vobiz", "another token"),
        limits: &[NO_KEEPALIVE],
    },
    SIGNALWIRE,
    Row {
        codec: Some((AudioFormat::G722, "")),
        ..SIGNALWIRE
    },
    Row {
        dialect: Dialect::Exotel,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        // At 8 kHz, where 3200 bytes are longest.
        good: |phone| {
            let phone = phone.format(AudioFormat::ULAW_8K);
            phone.expect("no Opus").api_key(proofs::KEY)
        },
        bad: |phone| phone.api_key("tk_another"),
        limits: &[NO_KEEPALIVE],
    },
    Row {
        dialect: Dialect::Pipecat,
        codec: None,
        accounts: String::new,
        fetches_keys: false,
        good: |phone| phone.api_key(proofs::KEY),
        bad: |phone| phone.api_key("tk_another"),
        limits: &[NO_KEEPALIVE, NO_MARKS],
    },
    Row {
        dialect: Dialect::Webex,
        codec: None,
        accounts: proofs::webex_accounts,
        fetches_keys: true,
        good: |phone| phone.api_key(proofs::webex_token(proofs::WEBEX_URL)),
        bad: |phone| phone.api_key(proofs::webex_token("https://another.example")),
        limits: &[NO_MARKS],
    },
];
