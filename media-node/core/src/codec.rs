//! What the headers of coded frames say, read as far as a muxer or a bridge needs it; for any bytes a value or `None`.

pub mod av1;
mod bits;
pub mod h264;
pub mod h265;
pub mod opus;
pub mod sei;
pub mod vp9;

pub use bits::Bits;

/// More bytes than all that is read of a parameter set takes.
const ENOUGH: usize = 160;

/// The begin of a NAL unit without the bytes that keep start codes out of it.
fn unescaped(nal: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENOUGH);
    for byte in nal.iter().take(ENOUGH) {
        if !(*byte == 3 && bytes.ends_with(&[0, 0])) {
            bytes.push(*byte);
        }
    }
    bytes
}
