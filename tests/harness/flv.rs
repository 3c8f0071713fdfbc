//! FLV files as the packets that a publisher of them would bring into a ring.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use media_core::{Kind, Packet, Role, RtmpClock, Track};

/// Reads a file's packets.
///
/// # Errors
/// When it cannot be read, or is no FLV file.
pub fn packets(file: &Path) -> Result<Vec<Packet>> {
    let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    ensure!(bytes.starts_with(b"FLV"), "{} is no FLV file", file.display());
    let mut clock = RtmpClock::default();
    let packet = |message: ::rtmp::Message| {
        let kind = match message.kind {
            ::rtmp::Kind::Data => Kind::Data,
            ::rtmp::Kind::Video => Kind::Video,
            ::rtmp::Kind::Audio => Kind::Audio,
        };
        Packet::new(Track::first(kind), clock.place(message.timestamp_ms), Role::Dependent, message.payload)
    };
    Ok(::rtmp::flv::messages(bytes.into()).into_iter().map(packet).collect())
}
