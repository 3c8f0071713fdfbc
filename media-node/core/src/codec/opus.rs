//! Opus (RFC 6716 §3.1).

/// Samples in a packet, at 48 kHz: at most 120 ms. `None` for a packet that is not valid.
#[must_use]
pub fn samples(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880].get(usize::from(config % 4)).copied()?,
        config @ 12..=15 => [480, 960].get(usize::from(config % 2)).copied()?,
        config => [120, 240, 480, 960].get(usize::from(config % 4)).copied()?,
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3F),
    };
    let samples = frame * frames;
    (1..=5_760).contains(&samples).then_some(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opus_packet_says_how_long_it_is() {
        for (packet, expected) in [
            (&[0xFC_u8][..], Some(960)),
            (&[0xF8], Some(960)),
            (&[0x18], Some(2_880)),
            (&[0xFD], Some(1_920)),
            (&[0xFF, 3], Some(2_880)),
            (&[0xFF, 0], None),
            (&[0xFF, 63], None),
            (&[0xFF], None),
            (&[], None),
        ] {
            assert_eq!(samples(packet), expected, "{packet:?}");
        }
    }
}
