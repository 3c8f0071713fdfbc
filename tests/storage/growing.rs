//! A file that grows as a recording does, and its upload.

use std::{
    fs::{self, File},
    future::ready,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;

use tallylight_media_node::storage::{
    Bucket,
    trouble::Trouble,
    upload::{Growth, Owner, Stopped, Uploaded},
    url::StorageUrl,
};
use tempfile::TempDir;
use tests::{
    s3::{KEY_ID, S3, SECRET},
    wait,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const FILE: &str = "show-1.mp4";

/// A recording on the disk, its upload, and the bucket.
pub(crate) struct Rig {
    pub(crate) s3: S3,
    pub(crate) bucket: Bucket,
    pub(crate) folder: TempDir,
    pub(crate) file: PathBuf,
    content: File,
    growth: watch::Sender<Growth>,
    pub(crate) trouble: Arc<watch::Sender<Option<Trouble>>>,
    cancel: CancellationToken,
    /// Whether the file is still this one's.
    has_it: Arc<AtomicBool>,
    uploads: JoinSet<Result<Uploaded, Stopped>>,
}

pub(crate) fn bucket(s3: &S3, folder: &TempDir, name: &str, options: &str) -> Bucket {
    write_key(folder, KEY_ID, SECRET);
    let url = format!("s3://{name}/live?endpoint={}&credentials-dir={}{options}", s3.url(), folder.path().display());
    match url.parse().unwrap() {
        StorageUrl::Bucket(url) => Bucket::new(&url).unwrap(),
        StorageUrl::Folder(_) => panic!("a bucket"),
    }
}

pub(crate) fn write_key(folder: &TempDir, key_id: &str, secret: &str) {
    fs::write(folder.path().join("access-key-id"), key_id).unwrap();
    fs::write(folder.path().join("secret-access-key"), secret).unwrap();
}

impl Rig {
    pub(crate) async fn new(options: &str) -> Self {
        Self::with(S3::start(&["vods"]).await.unwrap(), options)
    }

    pub(crate) fn with(s3: S3, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket(&s3, &folder, "vods", options);
        let file = folder.path().join("media.mp4");
        let mut content = File::create(&file).unwrap();
        content.write_all(&head()).unwrap();
        let growth = watch::Sender::new(Growth::Open { len: 0 });
        let trouble = Arc::new(watch::Sender::new(None));
        let (cancel, uploads) = (CancellationToken::new(), JoinSet::new());
        let has_it = Arc::new(AtomicBool::new(true));
        let mut rig = Self { s3, bucket, folder, file, content, growth, trouble, cancel, has_it, uploads };
        rig.begin();
        rig
    }

    /// Begins the upload, or begins it again as after a restart.
    pub(crate) fn begin(&mut self) {
        self.cancel = CancellationToken::new();
        let (bucket, file, growth) = (self.bucket.clone(), self.file.clone(), self.growth.subscribe());
        let (trouble, cancel) = (Arc::clone(&self.trouble), self.cancel.clone());
        let has_it = Arc::clone(&self.has_it);
        self.uploads.spawn(async move {
            let has_it = || -> BoxFuture<'_, bool> { Box::pin(ready(has_it.load(Ordering::Relaxed))) };
            let owner = Owner { trouble: &trouble, cancel: &cancel, has_it: &has_it };
            bucket.upload(FILE, &file, growth, owner).await
        });
    }

    /// Begins another file and its upload, under the same name, as a node with another disk.
    pub(crate) async fn begin_elsewhere(&mut self) {
        self.kill().await;
        let _noted = fs::remove_file(self.file.with_file_name("media.mp4.upload.json")); // if it was
        self.content = File::create(&self.file).unwrap();
        self.content.write_all(&head()).unwrap();
        self.growth = watch::Sender::new(Growth::Open { len: 0 });
        self.begin();
    }

    /// Ends the upload in mid-request, as a kill does.
    pub(crate) async fn kill(&mut self) {
        self.uploads.shutdown().await;
    }

    /// Appends fragments of 1 MiB.
    pub(crate) fn grow(&mut self, mebibytes: u32) {
        for _ in 0..mebibytes {
            let seed = self.content.stream_position().unwrap();
            self.content.write_all(&fragment(seed)).unwrap();
        }
        let len = self.content.stream_position().unwrap();
        self.growth.send_replace(Growth::Open { len });
    }

    /// Ends the file as a recording ends: an index, and a few bytes at its begin.
    pub(crate) fn close(&mut self) {
        self.content.write_all(&[7; 5_000]).unwrap();
        let len = self.content.stream_position().unwrap();
        self.content.seek(SeekFrom::Start(24)).unwrap();
        self.content.write_all(b"\0\0\0\x01mdatPATCHED!").unwrap();
        self.growth.send_replace(Growth::Closed { len, patched: 24..40 });
    }

    pub(crate) async fn uploaded(&mut self) -> Uploaded {
        self.ended().await.unwrap()
    }

    pub(crate) async fn ended(&mut self) -> Result<Uploaded, Stopped> {
        tokio::time::timeout(PATIENCE, self.uploads.join_next()).await.unwrap().unwrap().unwrap()
    }

    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Another takes over.
    pub(crate) fn lose(&self) {
        self.has_it.store(false, Ordering::Relaxed);
    }

    /// Waits until so many parts have been noted.
    pub(crate) async fn parts(&self, count: usize) {
        let notes = self.file.with_file_name("media.mp4.upload.json");
        wait::until(format!("{count} parts to be noted"), PATIENCE, async || {
            let text = fs::read_to_string(&notes).unwrap_or_default();
            if text.matches("\"tag\"").count() >= count { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn troubled(&self, reason: &str) -> Trouble {
        let mut trouble = self.trouble.subscribe();
        let is_it = |trouble: &Option<Trouble>| trouble.as_ref().is_some_and(|trouble| trouble.reason() == reason);
        let found = tokio::time::timeout(PATIENCE, trouble.wait_for(is_it)).await.unwrap().unwrap().clone();
        found.unwrap()
    }

    /// Asserts that the bucket has the file as it is on the disk, and that nothing is left beside it.
    pub(crate) fn is_whole(&self, uploaded: &Uploaded) {
        let (here, there) = (fs::read(&self.file).unwrap(), fs::read(self.s3.file("vods", "live/show-1.mp4")).unwrap());
        assert_eq!((uploaded.bytes, there.len()), (here.len() as u64, here.len()));
        assert!(here == there, "the object is the file, byte for byte");
        assert!(!self.file.with_file_name("media.mp4.upload.json").exists(), "the notes are gone");
        assert_eq!(*self.trouble.borrow(), None);
    }
}

fn head() -> Vec<u8> {
    let mut head = b"\0\0\0\x18ftypisom\0\0\0\0isomiso6\0\0\0\x10free\0\0\0\0\0\0\0\0".to_vec();
    head.extend(b"\0\0\0\x10moov\0\0\0\0\0\0\0\0");
    head
}

/// A header and media of 1 MiB, each another.
fn fragment(seed: u64) -> Vec<u8> {
    let mut fragment = b"\0\0\0\x10moof\0\0\0\0\0\0\0\0".to_vec();
    fragment.extend((1_u32 << 20).to_be_bytes());
    fragment.extend(b"mdat");
    fragment.extend((0..(MIB - 8) / 8).flat_map(|at| (seed + at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()));
    fragment
}

#[tokio::test]
async fn a_file_is_sent_while_it_grows_and_is_whole_at_the_end() {
    let mut rig = Rig::new("&sse=AES256&acl=private").await;
    rig.grow(7);
    rig.parts(1).await;
    rig.grow(6);
    rig.parts(2).await;
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
    let asks = rig.s3.asks();
    let parts: Vec<_> = asks.iter().filter(|ask| ask.is_part()).collect();
    assert_eq!(parts.len(), 4, "two while it grew, the first again, the rest: {:?}", rig.s3.asks().len());
    let largest = parts.iter().map(|ask| ask.bytes).max().unwrap();
    assert!(largest <= 7 * MIB, "one part is in memory, not the file: {largest}");
    let begin = asks.iter().find(|ask| ask.is_begin()).unwrap();
    assert_eq!(begin.headers.get("x-amz-server-side-encryption").unwrap(), "AES256");
    assert_eq!(begin.headers.get("x-amz-acl").unwrap(), "private");
    assert!(asks.iter().all(|ask| ask.is_begin() || !ask.headers.contains_key("x-amz-acl")), "where it belongs only");
}

#[tokio::test]
async fn a_short_file_is_one_part() {
    let mut rig = Rig::new("").await;
    rig.grow(1);
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
    assert_eq!(rig.s3.asks().iter().filter(|ask| ask.is_part()).count(), 1);
}

#[tokio::test]
async fn an_upload_that_was_killed_goes_on_where_it_was() {
    let mut rig = Rig::new("").await;
    rig.grow(12);
    rig.parts(2).await;
    rig.kill().await;
    let before = rig.s3.asks().len();

    rig.grow(6);
    rig.begin();
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
    let after = rig.s3.asks().split_off(before);
    assert!(!after.iter().any(tests::s3::Ask::is_begin), "it is the same upload");
    assert!(!after.iter().any(|ask| ask.target.contains("partNumber=2&")), "what was sent is not sent again");
}

#[tokio::test]
async fn a_cancelled_upload_keeps_what_was_sent_and_an_aborted_one_nothing() {
    let mut rig = Rig::new("").await;
    rig.grow(6);
    rig.parts(1).await;
    rig.cancel();
    assert!(matches!(rig.ended().await, Err(Stopped::Cancelled)));
    assert!(rig.file.with_file_name("media.mp4.upload.json").exists());

    rig.bucket.abort(FILE, &rig.file).await.unwrap();

    assert!(!rig.file.with_file_name("media.mp4.upload.json").exists());
    let left: Vec<_> = fs::read_dir(rig.s3.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["vods"], "no part is left in the store");
}
