//! Where the pieces of messages come together, and how memory is shared between messages.

use bytes::{Bytes, BytesMut};

/// The least that a buffer grows by, in bytes: a header may claim 16 MiB, memory follows what really came.
pub(super) const STEP: usize = 4 << 10;

/// Messages that share an allocation, as long as the last one: they are let go of in the order in which they came, so that nothing is
/// left over between those that stay. Allocations of each message's own length would leave as much unused as is used.
const BLOCK_MESSAGES: usize = 8;
/// The least and the greatest of these allocations, in bytes. Whoever keeps one message keeps all of it.
const BLOCK: (usize, usize) = (4 << 10, 256 << 10);

/// Bytes of messages after which older ones count half.
const RECENT: usize = 1 << 20;

/// The message of a chunk stream that is being put together, and room for the next ones.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    bytes: BytesMut,
    /// How long the next block for messages is, in bytes; 0 before there was one.
    block: usize,
}

/// How messages came of late, in bytes.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Whole, in one piece of the input.
    whole: usize,
    /// In pieces, which were put together elsewhere.
    in_pieces: usize,
}

impl Assembly {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of memory for this message, and the next ones.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds a piece of a message of that length.
    pub(super) fn append(&mut self, piece: &[u8], length: usize) {
        let have = self.bytes.len();
        let room = self.bytes.capacity();
        if have == 0 && room < length && length <= self.block {
            self.bytes = BytesMut::with_capacity(self.block);
        } else if room.saturating_sub(have) < piece.len() {
            let step = piece.len().max(have).max(STEP);
            let mut longer = BytesMut::with_capacity(have.saturating_add(step.min(length.saturating_sub(have))));
            longer.extend_from_slice(&self.bytes);
            self.bytes = longer;
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Takes the message that is complete.
    pub(super) fn take(&mut self) -> Bytes {
        self.block = block(self.bytes.len());
        self.bytes.split().freeze()
    }
}

impl Came {
    pub(super) fn add(&mut self, whole: usize, in_pieces: usize) {
        self.whole = self.whole.saturating_add(whole);
        self.in_pieces = self.in_pieces.saturating_add(in_pieces);
        if self.whole.saturating_add(self.in_pieces) > RECENT {
            self.whole /= 2;
            self.in_pieces /= 2;
        }
    }

    /// Whether blocks that are read hold little beside what is sliced of them: a fifth at most.
    pub(super) fn is_mostly_whole(&self) -> bool {
        self.in_pieces <= self.whole / 4
    }
}

/// How long a block is after a message of that length.
pub(super) fn block(length: usize) -> usize {
    let (least, greatest) = BLOCK;
    length.saturating_mul(BLOCK_MESSAGES).clamp(least, greatest).next_power_of_two()
}
