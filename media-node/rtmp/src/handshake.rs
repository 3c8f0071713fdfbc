//! The simple handshake (§5.2) of both sides.
//!
//! Flash's handshake with digests is answered with the simple one: the version bytes of our part are zero, and every
//! client that sends a digest then does without. The 1,528 "random" bytes protect nothing, so ours are a fixed pattern.

use bytes::{Buf, BufMut, BytesMut};

use crate::Error;

const VERSION: u8 = 3;
const PART: usize = 1536;

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// A server waits for the version and the client's part (C0, C1).
    ServerStart,
    /// A server waits for the echo of its own part (C2).
    ServerEcho,
    /// A client waits for the version, the server's part and the echo (S0, S1, S2).
    ClientStart,
    /// Chunks follow.
    Done,
}

impl Handshake {
    /// Starts a server's handshake.
    pub(crate) fn server() -> Self {
        Self::ServerStart
    }

    /// Starts a client's handshake: writes C0 and C1.
    pub(crate) fn client(output: &mut BytesMut) -> Self {
        output.put_u8(VERSION);
        put_part(output);
        Self::ClientStart
    }

    /// Takes handshake bytes off `input`; returns whether chunks follow. Until a step's bytes are all there they stay in
    /// `input`: at most 3,072.
    pub(crate) fn advance(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<bool, Error> {
        loop {
            match self {
                Self::ServerStart => {
                    let Some(part) = versioned_part(input)? else {
                        return Ok(false);
                    };
                    output.put_u8(VERSION);
                    put_part(output);
                    output.put_slice(part);
                    input.advance(PART.saturating_add(1));
                    *self = Self::ServerEcho;
                }
                Self::ServerEcho => {
                    // not compared: clients with digests send something else
                    if input.len() < PART {
                        return Ok(false);
                    }
                    input.advance(PART);
                    *self = Self::Done;
                }
                Self::ClientStart => {
                    let Some(part) = versioned_part(input)? else {
                        return Ok(false);
                    };
                    if input.len() <= PART.saturating_mul(2) {
                        return Ok(false);
                    }
                    output.put_slice(part);
                    input.advance(PART.saturating_mul(2).saturating_add(1));
                    *self = Self::Done;
                }
                Self::Done => return Ok(true),
            }
        }
    }
}

/// The peer's part, once the version and all of it are there. A wrong version is seen from the first byte.
fn versioned_part(input: &[u8]) -> Result<Option<&[u8]>, Error> {
    match input.split_first() {
        None => Ok(None),
        Some((&VERSION, rest)) => Ok(rest.get(..PART)),
        Some((&version, _)) => Err(Error::Version { version }),
    }
}

/// Writes our part: time 0, version 0 (no digest), filler.
fn put_part(output: &mut BytesMut) {
    output.put_bytes(0, 8);
    output.extend((0..PART.saturating_sub(8)).map(|index| index.to_le_bytes()[0].wrapping_mul(167)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_echoes_the_clients_part_and_then_takes_any_echo() {
        let mut output = BytesMut::new();
        let mut handshake = Handshake::server();
        let mut input = BytesMut::from(&[3_u8][..]);
        input.put_bytes(0x5A, PART);

        assert_eq!(handshake.advance(&mut input, &mut output), Ok(false));
        assert_eq!(output.len(), 1 + 2 * PART);
        assert_eq!(output.first(), Some(&3));
        assert!(output[1 + PART..].iter().all(|byte| *byte == 0x5A));

        input.put_bytes(0, PART);
        input.put_u8(0x42);
        assert_eq!(handshake.advance(&mut input, &mut output), Ok(true));
        assert_eq!(input, &[0x42][..], "what follows the handshake is left");
    }

    #[test]
    fn another_protocol_is_refused_at_its_first_byte() {
        for (byte, name) in [(0x16, "tls"), (b'G', "http"), (6, "rtmpe")] {
            let mut input = BytesMut::from(&[byte][..]);
            let result = Handshake::server().advance(&mut input, &mut BytesMut::new());
            assert_eq!(result, Err(Error::Version { version: byte }), "{name}");
        }
    }

    #[test]
    fn client_and_server_finish_with_each_other() {
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        let mut client = Handshake::client(&mut to_server);
        let mut server = Handshake::server();

        assert_eq!(server.advance(&mut to_server, &mut to_client), Ok(false));
        assert_eq!(client.advance(&mut to_client, &mut to_server), Ok(true));
        assert_eq!(server.advance(&mut to_server, &mut to_client), Ok(true));
        assert!(to_server.is_empty() && to_client.is_empty());
    }
}
