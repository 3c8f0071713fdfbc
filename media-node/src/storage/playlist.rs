//! Brings a playlist to its bucket while it grows: first each file that it lists, in its order, then the playlist as far as they go.
//! So what the bucket has can be played at every instant. A file that is there leaves the disk.
//!
//! What was sent is noted beside the playlist, and a restart goes on from there. One file is in memory at a time; one that is large
//! is sent in parts.
//!
//! Another may take the playlist over, and end it. So it is replaced only while it is the one that was put here before (`If-Match`);
//! when it is not, its owner asks whether it is still its own.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use object_store::{
    Attribute, Attributes, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    UpdateVersion, path,
};
use serde::{Deserialize, Serialize};
use tokio::{fs, sync::watch};
use tracing::{debug, info};

use super::{
    asking::{Answer, Asking, FIRST_PAUSE, LONGEST_PAUSE, Outcome},
    bucket::Bucket,
    notes,
    trouble::Trouble,
    upload::{Growth, Owner, Stopped, Uploaded},
};

/// Kind of a playlist: RFC 8216 §4.
pub const PLAYLIST: &str = "application/vnd.apple.mpegurl";
/// Kind of a segment, as of an MP4 in whole.
pub const MEDIA: &str = "video/mp4";
const INIT: &str = "init.mp4";
const LAST: &str = "#EXT-X-ENDLIST";
/// What was sent, beside the playlist.
const NOTES: &str = "sent.json";
/// Larger files are sent in parts: 13 s of 10 Mbit/s.
const WHOLE: u64 = 16 << 20;
/// Largest playlist that is read: ten days of segments of 2 s.
const MAX_PLAYLIST: u64 = 32 << 20;

/// Name of a file beside a playlist; 0 is the init segment.
#[must_use]
pub fn name(number: usize) -> String {
    if number == 0 { INIT.to_owned() } else { format!("segment-{number}.m4s") }
}

/// The number of a file beside a playlist; `None` for a name that is none.
#[must_use]
pub fn number(file: &str) -> Option<usize> {
    let digits = file.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".m4s"));
    let number = if file == INIT { Some(0) } else { digits?.parse().ok() };
    number.filter(|number| name(*number) == file)
}

/// The folder of its files: a playlist's name without the extension.
#[must_use]
pub fn stem(file_name: &str) -> &str {
    file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem)
}

/// What the bucket has of a playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// So many of the files that it lists, from the first one on: a file whose number is below is there.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// Of the playlist.
    pub etag: Option<String>,
    /// The playlist is there with its end.
    pub is_whole: bool,
}

impl Sent {
    /// What was noted beside a playlist. It blocks.
    #[must_use]
    pub fn noted(folder: &Path) -> Self {
        let text = std::fs::read(folder.join(NOTES)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Notes it beside a playlist.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn note(&self, folder: &Path) -> io::Result<()> {
        notes::write(&folder.join(NOTES), self).await
    }
}

/// A playlist as its bucket has it.
#[derive(Clone, Debug)]
pub struct Playlist {
    pub text: Bytes,
    pub etag: Option<String>,
    /// When it was put there, in seconds of Unix.
    pub modified: i64,
}

impl Bucket {
    /// Uploads the playlist `file_name` of a folder and what it lists, as far as `growth` says, until it is closed and there.
    ///
    /// # Errors
    /// When it is cancelled or `growth` has no sender any more; when a file cannot be read; when it is another's by now.
    pub async fn upload_playlist<'a>(
        &'a self,
        file_name: &str,
        folder: &Path,
        mut growth: watch::Receiver<Growth>,
        owner: Owner<'a>,
    ) -> Result<Uploaded, Stopped> {
        let asking = Asking { bucket: self, key: self.key(file_name), owner };
        let sent = notes::read(&folder.join(NOTES)).await.unwrap_or_default();
        let mut upload = Upload { asking, folder: folder.to_owned(), sent, unlisted: 0 };
        loop {
            let grown = growth.borrow_and_update().clone();
            let text = read(&folder.join(file_name)).await.map_err(Stopped::File)?;
            upload.bring(&text).await?;
            match grown {
                Growth::Open { .. } => {
                    let changed = owner.cancel.run_until_cancelled(growth.changed()).await;
                    changed.and_then(Result::ok).ok_or(Stopped::Cancelled)?;
                }
                Growth::Closed { .. } => return upload.end(&text).await,
            }
        }
    }

    /// Fetches a playlist; `None` when there is none.
    ///
    /// # Errors
    /// When the service does not give it.
    pub async fn playlist(&self, file_name: &str) -> Result<Option<Playlist>, Trouble> {
        let key = self.key(file_name);
        let read = async {
            let found = self.store().get(&key).await?;
            let ObjectMeta { size, e_tag: etag, last_modified, .. } = found.meta.clone();
            let text = if size > MAX_PLAYLIST { None } else { Some(found.bytes().await?) };
            Ok(text.map(|text| Playlist { text, etag, modified: last_modified.timestamp() }))
        };
        match self.within(read).await? {
            Some(Some(playlist)) => Ok(Some(playlist)),
            Some(None) => Err(Trouble::Unavailable { why: format!("a playlist has more than {MAX_PLAYLIST} bytes") }),
            None => Ok(None),
        }
    }
}

/// A playlist that grows; empty before its first segment is complete.
async fn read(playlist: &Path) -> io::Result<String> {
    match fs::read_to_string(playlist).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

struct Upload<'a> {
    asking: Asking<'a>,
    folder: PathBuf,
    sent: Sent,
    /// Bytes of files that are there since the playlist was put last.
    unlisted: u64,
}

impl Upload<'_> {
    /// Puts what a playlist lists that is not there yet, and the playlist as far as that goes. A playlist is put when as many bytes
    /// of media were: so that of a long recording does not cost more than the recording.
    async fn bring(&mut self, text: &str) -> Result<(), Stopped> {
        let is_ended = text.contains(LAST);
        let listed = listed(text);
        for (at, file) in listed.iter().enumerate().skip(self.sent.files) {
            let bytes = self.put(file.uri).await?;
            self.sent.files = at + 1;
            self.sent.bytes += bytes;
            self.unlisted += bytes;
            let is_newest = at + 1 == listed.len();
            let so_far = text.get(..file.end).filter(|_| !is_newest).unwrap_or(text);
            if at > 0 && !is_ended && self.unlisted >= so_far.len() as u64 {
                self.list(so_far).await?;
                self.unlisted = 0;
            }
            self.note().await;
            self.clear(file.uri).await;
        }
        Ok(())
    }

    async fn end(mut self, text: &str) -> Result<Uploaded, Stopped> {
        if !self.sent.is_whole {
            self.asking.must_have_it().await?;
            self.list(text).await?;
            self.sent.is_whole = true;
            self.note().await;
        }
        self.asking.owner.trouble.send_if_modified(|known| known.take().is_some());
        let Sent { files, bytes, etag, .. } = self.sent;
        info!(key = %self.asking.key, bytes, files, "upload.completed");
        Ok(Uploaded { bytes: bytes + text.len() as u64, etag })
    }

    /// Puts a file. Returns its size.
    async fn put(&self, uri: &str) -> Result<u64, Stopped> {
        let path = self.folder.join(uri);
        match fs::metadata(&path).await {
            Ok(found) if found.len() > WHOLE => {
                let (_grown, growth) = watch::channel(Growth::Closed { len: found.len(), patched: 0..0 });
                let put = self.asking.bucket.upload(uri, &path, growth, self.asking.owner).await?;
                Ok(put.bytes)
            }
            Ok(_) => self.put_whole(uri, &path).await,
            // it has left the disk, and that it was sent could not be noted
            Err(error) if error.kind() == ErrorKind::NotFound => self.find(uri).await?.ok_or(Stopped::File(error)),
            Err(error) => Err(Stopped::File(error)),
        }
    }

    async fn put_whole(&self, uri: &str, path: &Path) -> Result<u64, Stopped> {
        let key = self.asking.bucket.key(uri);
        loop {
            match self.asking.repeat(|| self.send(&key, path)).await? {
                Outcome::Done(bytes) => return Ok(bytes),
                // a service that has no such object to make: as if it were not there
                Outcome::Gone => self.asking.rest(LONGEST_PAUSE).await?,
            }
        }
    }

    /// Reads a file and sends it, once. It is read again for each try: between them nothing of it is in memory.
    async fn send(&self, key: &path::Path, file: &Path) -> Result<Answer<u64>, Stopped> {
        let _room = self.asking.room().await?;
        let bytes = fs::read(file).await.map_err(Stopped::File)?;
        let len = bytes.len() as u64;
        self.asking.pace(len).await?;
        let put = self.asking.bucket.store().put_opts(key, bytes.into(), options(MEDIA, PutMode::Overwrite));
        Ok(self.asking.ask(len, put).await?.map(|_put| len))
    }

    async fn find(&self, uri: &str) -> Result<Option<u64>, Stopped> {
        Ok(self.head(&self.asking.bucket.key(uri)).await?.map(|found| found.size))
    }

    async fn head(&self, key: &path::Path) -> Result<Option<ObjectMeta>, Stopped> {
        let found = self.asking.repeat(|| self.asking.ask(0, self.asking.bucket.store().head(key))).await?;
        Ok(match found {
            Outcome::Done(found) => Some(found),
            Outcome::Gone => None,
        })
    }

    /// Puts the playlist, in place of the one that was put before.
    async fn list(&mut self, text: &str) -> Result<(), Stopped> {
        loop {
            match self.asking.repeat(|| self.replace(text)).await? {
                Outcome::Done(etag) => {
                    self.sent.etag = etag;
                    return Ok(());
                }
                // put by a try whose answer was lost, or by another. In this order: what another puts once it has the recording
                // is either known here to be another's, or not what is replaced
                Outcome::Gone => {
                    let found = self.head(&self.asking.key).await?;
                    self.asking.must_have_it().await?;
                    self.sent.etag = found.and_then(|found| found.e_tag);
                    self.asking.rest(FIRST_PAUSE).await?;
                }
            }
        }
    }

    async fn replace(&self, text: &str) -> Result<Answer<Option<String>>, Stopped> {
        let (known, bytes) = (self.sent.etag.clone(), text.len() as u64);
        let update = |etag| PutMode::Update(UpdateVersion { e_tag: Some(etag), version: None });
        let options = options(PLAYLIST, known.map_or(PutMode::Create, update));
        self.asking.pace(bytes).await?;
        let payload = PutPayload::from(text.as_bytes().to_vec());
        let put = self.asking.bucket.store().put_opts(&self.asking.key, payload, options);
        Ok(self.asking.ask(bytes, put).await?.map(|put| put.e_tag))
    }

    /// Without its notes an upload goes on all the same: a restart looks for what is not on the disk.
    async fn note(&self) {
        if let Err(error) = self.sent.note(&self.folder).await {
            debug!(folder = %self.folder.display(), %error, "failed to note what was sent");
        }
    }

    /// Removes a file that is there from the disk, once it is certain that the playlist survives a loss of power that has it.
    async fn clear(&self, uri: &str) {
        let (folder, file) = (self.folder.clone(), self.folder.join(uri));
        let cleared = notes::blocking(move || {
            std::fs::File::open(folder)?.sync_all()?;
            std::fs::remove_file(file)
        });
        if let Err(error) = cleared.await
            && error.kind() != ErrorKind::NotFound
        {
            debug!(file = uri, %error, "failed to remove a segment that is sent");
        }
    }
}

fn options(kind: &'static str, mode: PutMode) -> PutOptions {
    let attributes = Attributes::from_iter([(Attribute::ContentType, kind)]);
    PutOptions { mode, attributes, ..PutOptions::default() }
}

/// A file that a playlist lists, and where the line that does so ends.
#[derive(Debug, PartialEq, Eq)]
struct Listed<'a> {
    uri: &'a str,
    end: usize,
}

fn listed(text: &str) -> Vec<Listed<'_>> {
    let (mut found, mut end) = (Vec::new(), 0);
    for line in text.split_inclusive('\n') {
        end += line.len();
        let line = line.trim_end();
        let uri = match line.strip_prefix("#EXT-X-MAP:URI=\"") {
            Some(rest) => rest.split('"').next(),
            None => (!line.is_empty() && !line.starts_with('#')).then_some(line),
        };
        found.extend(uri.map(|uri| Listed { uri, end }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beside_a_playlist_have_names_of_ours() {
        for number_of in 0..12 {
            assert_eq!(number(&name(number_of)), Some(number_of));
        }
        for other in ["segment-0.m4s", "segment-01.m4s", "segment-+1.m4s", "segment-1.mp4", "init.mp4.x", "1", ""] {
            assert_eq!(number(other), None, "{other}");
        }
        assert_eq!(stem("show-1.m3u8"), "show-1");
    }

    #[test]
    fn what_a_playlist_lists_up_to_a_file_is_a_playlist() {
        let text = "#EXTM3U\n#EXT-X-MAP:URI=\"a/init.mp4\"\n#EXTINF:2,\na/segment-1.m4s\n#EXT-X-DISCONTINUITY\n#EXTINF:2,\n\
                    a/segment-2.m4s\n";
        let found = listed(text);
        assert_eq!(
            found.iter().map(|file| file.uri).collect::<Vec<_>>(),
            ["a/init.mp4", "a/segment-1.m4s", "a/segment-2.m4s"]
        );
        assert!(text.split_at(found[1].end).0.ends_with("a/segment-1.m4s\n") && text.len() == found[2].end);
        assert!(listed("").is_empty());
    }
}
