//! The chunk layer (§5.3): messages cut into chunks and put together again.

mod assembly;
pub(crate) mod reader;
mod writer;

pub use reader::Limits;
pub(crate) use writer::{Header, control, write};
pub use writer::{OUTGOING_CHUNK_SIZE, PLAYER_STREAM, write_message};

/// The chunk size before anybody sets another (§5.4.1), in bytes.
pub const INITIAL_CHUNK_SIZE: usize = 128;

/// The message type ids of §5.4, §6 and §7.1.
pub(crate) mod message_type {
    pub(crate) const SET_CHUNK_SIZE: u8 = 1;
    pub(crate) const ABORT: u8 = 2;
    pub(crate) const ACKNOWLEDGEMENT: u8 = 3;
    pub(crate) const USER_CONTROL: u8 = 4;
    pub(crate) const WINDOW_ACK_SIZE: u8 = 5;
    pub(crate) const SET_PEER_BANDWIDTH: u8 = 6;
    pub(crate) const AUDIO: u8 = 8;
    pub(crate) const VIDEO: u8 = 9;
    pub(crate) const DATA_AMF3: u8 = 15;
    pub(crate) const COMMAND_AMF3: u8 = 17;
    pub(crate) const DATA_AMF0: u8 = 18;
    pub(crate) const COMMAND_AMF0: u8 = 20;
    pub(crate) const AGGREGATE: u8 = 22;
}
