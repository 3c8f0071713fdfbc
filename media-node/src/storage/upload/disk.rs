//! What an upload reads of its file, off the threads that serve streams.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

use bytes::Bytes;

use super::{super::notes::blocking, plan::End};

/// Longest fragment that a part is made longer for; a longer one is cut. It bounds what a part takes of memory.
const MAX_FRAGMENT: u64 = 16 << 20;

/// Reads a part, all of it.
pub(super) async fn read_part(file: PathBuf, from: u64, end: End) -> io::Result<Bytes> {
    blocking(move || {
        let mut file = File::open(file)?;
        let end = match end {
            End::At(end) => end,
            End::Fragment { least, len } => fragment_end(&mut file, from, least, len)?,
        };
        let mut bytes = vec![0; usize::try_from(end - from).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    })
    .await
}

/// Where the first fragment ends that makes a part `least` bytes long. `from` and `len` are ends of fragments too.
fn fragment_end(file: &mut (impl Read + Seek), from: u64, least: u64, len: u64) -> io::Result<u64> {
    let mut at = from;
    while at + 8 <= len && at - from < least + MAX_FRAGMENT {
        let mut header = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        let [a, b, c, d, kind @ ..] = header;
        let size = u64::from(u32::from_be_bytes([a, b, c, d]));
        at += size;
        if size < 8 || at > len {
            break;
        }
        if &kind == b"mdat" && at - from >= least && at - from <= least + MAX_FRAGMENT {
            return Ok(at);
        }
    }
    // no fragments as ours: the parts are a file together, if not each by itself
    Ok(len.min(from + least))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn boxes(sizes: &[(&[u8; 4], u32)]) -> Vec<u8> {
        let mut file = Vec::new();
        for (kind, size) in sizes {
            file.extend(size.to_be_bytes());
            file.extend(*kind);
            file.resize(file.len() + *size as usize - 8, 0);
        }
        file
    }

    #[test]
    fn a_part_ends_with_a_fragment() {
        let file = boxes(&[
            (b"ftyp", 24),
            (b"free", 16),
            (b"moov", 60),
            (b"moof", 50),
            (b"mdat", 50),
            (b"moof", 50),
            (b"mdat", 50),
        ]);
        let len = file.len() as u64;
        let mut file = Cursor::new(file);

        assert_eq!(fragment_end(&mut file, 0, 150, len).unwrap(), 200);
        assert_eq!(fragment_end(&mut file, 0, 201, len).unwrap(), 300);
        assert_eq!(fragment_end(&mut file, 200, 10, len).unwrap(), 300);
    }

    #[test]
    fn a_file_of_something_else_is_cut_where_a_part_is_long_enough() {
        let mut file = Cursor::new(vec![0; 1_000]);
        assert_eq!(fragment_end(&mut file, 100, 400, 1_000).unwrap(), 500);
        let mut file = Cursor::new(boxes(&[(b"mdat", 900)]));
        assert_eq!(fragment_end(&mut file, 0, 400, 800).unwrap(), 400, "beyond what is on the disk");
    }
}
