//! simulator

pub mod judge;
pub mod phone;
mod phone_audio;
mod phone_call;
mod phone_codec;
pub mod phone_dial;
mod phone_dialect;
mod phone_playout;
mod phone_realtime;
mod phone_script;
#[cfg(test)]
mod phone_tests;
pub mod phone_timeline;
mod phone_twilio;
pub mod speech;
pub mod wav;

pub use phone::SoftPhone;
pub use phone_dial::Dialer;
pub use phone_dialect::{Dialect, Shape, TokenTotals};
pub use phone_script::Act;
pub use phone_timeline::CallReport;
