//! Audio that says what it is: each 20 ms carry the number of their call and their own, and a checksum.
//!
//! Chords of tones between 300 and 3,300 Hz, so that telephone codecs and the usual changes of rate leave them
//! readable; who receives them can tell what was lost, doubled, damaged, or belongs to another call. The words that
//! the stand-in recognises do not serve here: they tell ten things apart, once a second. Pure: knows no clock, and
//! time comes in only where a frame's age is asked for.

mod decoder;
mod judge;
mod symbol;

pub use decoder::{Decoder, Found};
pub use judge::{Heard, Judge, Tally};
pub use symbol::{Encoder, Stamp};

/// Of one frame.
pub const FRAME: std::time::Duration = std::time::Duration::from_millis(20);

/// Calls and frames are numbered modulo this.
pub const MODULUS: u16 = 1 << 12;
