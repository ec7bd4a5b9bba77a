//! simulator

pub mod judge;
mod phone_codec;
pub mod speech;
pub mod wav;
