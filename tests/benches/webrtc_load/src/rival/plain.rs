//! A clip as plain RTP over UDP, for a server that takes that.

use std::{net::UdpSocket, time::Instant};

use anyhow::Result;

use crate::{RtpArguments, clip::Clip, http::rest};

const PAYLOAD_TYPE: u8 = 96;

pub(crate) fn run(arguments: &RtpArguments) -> Result<()> {
    let (clip, socket) = (Clip::read(&arguments.clip)?, UdpSocket::bind(("127.0.0.1", 0))?);
    let (began, mut sequence) = (Instant::now(), 0_u16);
    for number in 0.. {
        let frame = clip.due(number)?;
        while let Some(left) = (began + frame.at).checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            rest(left);
        }
        for (index, payload) in frame.payloads.iter().enumerate() {
            let marker = if index + 1 == frame.payloads.len() { 0x80 } else { 0 };
            let [a, b] = sequence.to_be_bytes();
            let mut packet = vec![0x80, PAYLOAD_TYPE | marker, a, b];
            packet.extend(frame.timestamp.to_be_bytes());
            packet.extend(super::SSRC.to_be_bytes());
            packet.extend(payload);
            // nobody may be there yet
            drop(socket.send_to(&packet, arguments.to));
            sequence = sequence.wrapping_add(1);
        }
    }
    Ok(())
}
