//! The multivariant playlist (RFC 8216bis §4.4.6).

use std::fmt::{self, Write as _};

/// One entry of a multivariant playlist.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Of the media playlist, relative to the multivariant one.
    pub uri: String,
    /// Bits a second of the greatest segment.
    pub bandwidth: u64,
    /// Bits a second over all segments.
    pub average_bandwidth: u64,
    /// RFC 6381.
    pub codecs: String,
    /// Width and height, in pixels.
    pub resolution: Option<(u16, u16)>,
    /// Pictures a second.
    pub frame_rate: Option<f64>,
}

/// The playlist as text.
#[must_use]
pub fn multivariant(variants: &[Variant]) -> String {
    let mut text = "#EXTM3U\n#EXT-X-VERSION:9\n".to_owned();
    for variant in variants {
        write(&mut text, variant).expect("a String takes whatever is written");
    }
    text
}

fn write(text: &mut String, variant: &Variant) -> fmt::Result {
    let Variant { uri, bandwidth, average_bandwidth, codecs, resolution, frame_rate } = variant;
    write!(text, "#EXT-X-STREAM-INF:BANDWIDTH={bandwidth},AVERAGE-BANDWIDTH={average_bandwidth},CODECS=\"{codecs}\"")?;
    if let Some((width, height)) = resolution {
        write!(text, ",RESOLUTION={width}x{height}")?;
    }
    if let Some(rate) = frame_rate {
        write!(text, ",FRAME-RATE={rate:.3}")?;
    }
    writeln!(text, "\n{uri}")
}
