//! The checksum of a file whose head is written last: CRC-64/NVME, as object stores take it.

use std::io::{self, Read};

use base64::Engine as _;
use crc_fast::{CrcAlgorithm, Digest};

/// One read of a file that is read again.
const READ: usize = 256 << 10;

/// A checksum that grows with its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checksum(Digest);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds that of the bytes that follow.
    pub(super) fn followed_by(mut self, rest: &Self) -> Self {
        self.0.combine(&rest.0);
        self
    }

    /// That of all that can be read.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let (mut checksum, mut buffer) = (Self::new(), vec![0; READ]);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(checksum),
                Ok(read) => checksum.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As a Recording's status says it.
    pub(super) fn to_text(self) -> String {
        let bytes = self.0.finalize().to_be_bytes();
        format!("crc64nvme:{}", base64::engine::general_purpose::STANDARD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_object_stores_and_can_be_put_together() {
        let of = |bytes: &[u8]| {
            let mut checksum = Checksum::new();
            checksum.update(bytes);
            checksum
        };

        // CRC-64/NVME of "123456789" is ae8b14860a799888
        assert_eq!(of(b"123456789").to_text(), "crc64nvme:rosUhgp5mIg=");
        assert_eq!(of(b"1234").followed_by(&of(b"56789")).to_text(), of(b"123456789").to_text());
        assert_eq!(Checksum::read(&mut &b"123456789"[..]).unwrap().to_text(), of(b"123456789").to_text());
    }
}
