//! The model leg: what a call says to a deployment and hears from it.

mod decode;
mod encode;

pub use decode::{Decoded, Decoder};
pub use encode::{SessionContext, encode};
