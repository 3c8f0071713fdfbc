//! Playlists that grow, and what they list, in a bucket.

use std::{
    fs,
    future::ready,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use futures::future::BoxFuture;
use http::Method;
use tallylight_media_node::storage::{
    Bucket,
    playlist::{self, Sent},
    trouble::Trouble,
    upload::{Growth, Owner, Stopped, Uploaded},
};
use tempfile::TempDir;
use tests::{
    s3::{Ask, Fault, S3},
    wait,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::growing::{MIB, PATIENCE, bucket};

const PLAYLIST: &str = "show-1.m3u8";
const END: &str = "#EXT-X-ENDLIST\n";

/// A playlist on the disk, its upload, and the bucket.
pub(crate) struct Show {
    pub(crate) s3: S3,
    pub(crate) bucket: Bucket,
    pub(crate) keys: TempDir,
    folder: TempDir,
    /// What is there at the end, by the files' names.
    files: Vec<(String, Vec<u8>)>,
    text: String,
    growth: watch::Sender<Growth>,
    trouble: Arc<watch::Sender<Option<Trouble>>>,
    has_it: Arc<AtomicBool>,
    uploads: JoinSet<Result<Uploaded, Stopped>>,
}

impl Show {
    pub(crate) async fn new(options: &str) -> Self {
        let s3 = S3::start(&["vods"]).await.unwrap();
        let (keys, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("show-1")).unwrap();
        let bucket = bucket(&s3, &keys, "vods", options);
        let mut show = Self {
            s3,
            bucket,
            keys,
            folder,
            files: Vec::new(),
            text: "#EXTM3U\n#EXT-X-MAP:URI=\"show-1/init.mp4\"\n".to_owned(),
            growth: watch::Sender::new(Growth::Open { len: 0 }),
            trouble: Arc::new(watch::Sender::new(None)),
            has_it: Arc::new(AtomicBool::new(true)),
            uploads: JoinSet::new(),
        };
        show.write(0, 700);
        show.begin();
        show
    }

    /// Begins the upload, or begins it again as after a restart.
    fn begin(&mut self) {
        let (bucket, folder, growth) = (self.bucket.clone(), self.folder.path().to_owned(), self.growth.subscribe());
        let (trouble, has_it) = (Arc::clone(&self.trouble), Arc::clone(&self.has_it));
        self.uploads.spawn(async move {
            let has_it = || -> BoxFuture<'_, bool> { Box::pin(ready(has_it.load(Ordering::Relaxed))) };
            let cancel = CancellationToken::new();
            let owner = Owner { trouble: &trouble, cancel: &cancel, has_it: &has_it };
            bucket.upload_playlist(PLAYLIST, &folder, growth, owner).await
        });
    }

    async fn kill(&mut self) {
        self.uploads.shutdown().await;
    }

    fn write(&mut self, number: usize, bytes: usize) {
        let name = format!("show-1/{}", playlist::name(number));
        let content: Vec<_> = (0..bytes).map(|at| u8::try_from((at * 31 + number) % 251).unwrap()).collect();
        fs::write(self.folder.path().join(&name), &content).unwrap();
        self.files.push((name, content));
    }

    /// Adds a segment, and lists it.
    pub(crate) fn grow(&mut self, bytes: usize) {
        let number = self.files.len();
        self.write(number, bytes);
        self.text += &format!("#EXTINF:2.000000,\nshow-1/segment-{number}.m4s\n");
        self.list();
        self.growth.send_replace(Growth::Open { len: self.bytes() });
    }

    pub(crate) fn close(&mut self) {
        self.text += END;
        self.list();
        self.growth.send_replace(Growth::Closed { len: self.bytes(), patched: 0..0 });
    }

    fn list(&self) {
        let next = self.folder.path().join("next");
        fs::write(&next, &self.text).unwrap();
        fs::rename(next, self.folder.path().join(PLAYLIST)).unwrap();
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, content)| content.len() as u64).sum()
    }

    fn object(&self, name: &str) -> Vec<u8> {
        fs::read(self.s3.file("vods", &format!("live/{name}"))).unwrap_or_default()
    }

    fn there(&self) -> String {
        String::from_utf8(self.object(PLAYLIST)).unwrap()
    }

    fn local(&self, number: usize) -> PathBuf {
        self.folder.path().join("show-1").join(playlist::name(number))
    }

    /// Waits until the bucket has the playlist as it is here, and all that it lists has left.
    async fn brought(&self) {
        wait::until("the playlist to be there", PATIENCE, async || {
            let left = (0..self.files.len()).filter(|number| self.local(*number).exists()).count();
            let there = self.there();
            if there == self.text && left == 0 { Ok(()) } else { Err(format!("{left} files are here; {there}")) }
        })
        .await
        .unwrap();
    }

    async fn ended(&mut self) -> Result<Uploaded, Stopped> {
        tokio::time::timeout(PATIENCE, self.uploads.join_next()).await.unwrap().unwrap().unwrap()
    }

    /// Asserts that all is in the bucket, and that what was said of it is so.
    pub(crate) async fn is_whole(&mut self) {
        let uploaded = self.ended().await.unwrap();
        assert_eq!(self.there(), self.text);
        for (name, content) in &self.files {
            assert!(self.object(name) == *content, "{name}");
        }
        assert_eq!(uploaded.bytes, self.bytes() + self.text.len() as u64);
        assert_eq!(*self.trouble.borrow(), None);
        let sent = Sent::noted(self.folder.path());
        assert_eq!((sent.files, sent.bytes, sent.is_whole), (self.files.len(), self.bytes(), true));
    }

    /// Names of what was put, in that order.
    fn puts(&self) -> Vec<String> {
        let puts = self.s3.asks().into_iter().filter(|ask| ask.method == Method::PUT);
        let name = |ask: Ask| ask.target.split('?').next().and_then(|path| path.rsplit('/').next().map(str::to_owned));
        puts.filter_map(name).collect()
    }
}

fn is_playlist(ask: &Ask) -> bool {
    ask.method == Method::PUT && ask.target.contains(PLAYLIST)
}

/// The fault for the first so many requests that put the playlist.
fn first(count: u32, fault: Fault) -> impl Fn(&Ask) -> Fault + Send + Sync {
    let seen = AtomicU32::new(0);
    move |ask| {
        if is_playlist(ask) && seen.fetch_add(1, Ordering::Relaxed) < count { fault.clone() } else { Fault::None }
    }
}

#[tokio::test]
async fn what_a_playlist_lists_is_there_before_it_does_and_leaves_the_disk() {
    let mut show = Show::new("&sse=AES256&acl=private").await;
    show.grow(3_000);
    show.brought().await;
    show.grow(3_000);
    show.brought().await;
    show.close();
    show.is_whole().await;

    let order = ["init.mp4", "segment-1.m4s", PLAYLIST, "segment-2.m4s", PLAYLIST, PLAYLIST];
    assert_eq!(show.puts(), order);
    let asks = show.s3.asks();
    let header = |ask: &Ask, name: &str| ask.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    for ask in asks.iter().filter(|ask| ask.method == Method::PUT) {
        assert_eq!(header(ask, "x-amz-server-side-encryption").as_deref(), Some("AES256"));
        assert_eq!(header(ask, "x-amz-acl").as_deref(), Some("private"));
        let kind = if is_playlist(ask) { "application/vnd.apple.mpegurl" } else { "video/mp4" };
        assert_eq!(header(ask, "content-type").as_deref(), Some(kind));
    }
}

#[tokio::test]
async fn playlists_of_a_long_recording_cost_no_more_than_its_media() {
    let mut show = Show::new("").await;
    for _ in 0..60 {
        show.grow(400);
        wait::until("the segment to leave", PATIENCE, async || {
            if show.local(show.files.len() - 1).exists() { Err("it is here") } else { Ok(()) }
        })
        .await
        .unwrap();
    }
    let asks = show.s3.asks();
    let bytes = |of: fn(&Ask) -> bool| -> u64 {
        asks.iter().filter(|ask| ask.method == Method::PUT && of(ask)).map(|ask| ask.bytes).sum()
    };
    let (lists, media) = (bytes(is_playlist), bytes(|ask| !is_playlist(ask)));
    assert!(lists <= media && lists > 0, "{lists} bytes of playlists, {media} of media");
    show.close();
    show.is_whole().await;
}

#[tokio::test]
async fn a_playlist_that_is_refused_or_whose_answer_is_lost_is_put_again() {
    for fault in [Fault::Status(503, "SlowDown"), Fault::Reset, Fault::Lost] {
        let mut show = Show::new("").await;
        show.s3.script(first(2, fault));
        show.grow(3_000);
        show.grow(3_000);
        show.brought().await;
        show.close();
        show.is_whole().await;
    }
}

#[tokio::test]
async fn a_service_that_is_away_has_what_grew_meanwhile_when_it_is_back() {
    let mut show = Show::new("").await;
    show.grow(3_000);
    show.brought().await;
    show.s3.stop().await;
    for _ in 0..3 {
        show.grow(3_000);
    }
    let mut trouble = show.trouble.subscribe();
    tokio::time::timeout(PATIENCE, trouble.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert!((2..=4).all(|number| show.local(number).exists()), "they wait here");

    show.s3.start_again().await.unwrap();
    show.brought().await;
    show.close();
    show.is_whole().await;
}

#[tokio::test]
async fn an_upload_that_was_killed_goes_on_where_it_was_also_without_its_notes() {
    for has_notes in [true, false] {
        let mut show = Show::new("").await;
        show.grow(3_000);
        show.grow(3_000);
        show.brought().await;
        show.kill().await;
        let before = show.puts().len();
        if !has_notes {
            fs::remove_file(show.folder.path().join("sent.json")).unwrap();
        }

        show.grow(3_000);
        show.begin();
        show.brought().await;
        show.close();
        show.is_whole().await;

        let again: Vec<_> = show.puts().split_off(before);
        assert!(again.iter().all(|name| name == PLAYLIST || name == "segment-3.m4s"), "{again:?}");
    }
}

#[tokio::test]
async fn a_node_that_was_cut_off_leaves_a_playlist_alone_that_another_has_ended() {
    let mut show = Show::new("").await;
    show.grow(3_000);
    show.brought().await;
    show.has_it.store(false, Ordering::Relaxed);
    let heir = tempfile::tempdir().unwrap();
    let ended = show.text.clone() + END;
    fs::write(heir.path().join(PLAYLIST), &ended).unwrap();
    Sent { is_whole: false, ..Sent::noted(show.folder.path()) }.note(heir.path()).await.unwrap();
    let (trouble, cancel) = (watch::Sender::new(None), CancellationToken::new());
    let has_it = || -> BoxFuture<'_, bool> { Box::pin(ready(true)) };
    let owner = Owner { trouble: &trouble, cancel: &cancel, has_it: &has_it };
    let closed = watch::Sender::new(Growth::Closed { len: show.bytes(), patched: 0..0 });
    show.bucket.upload_playlist(PLAYLIST, heir.path(), closed.subscribe(), owner).await.unwrap();

    show.grow(3_000);
    let stopped = show.ended().await;

    assert!(matches!(stopped, Err(Stopped::TakenOver)), "{stopped:?}");
    assert_eq!(show.there(), ended);
}

#[tokio::test]
async fn nobody_ends_a_playlist_that_is_not_its_own() {
    let mut show = Show::new("").await;
    show.grow(3_000);
    show.brought().await;
    let before = show.there();
    show.has_it.store(false, Ordering::Relaxed);
    show.close();
    let stopped = show.ended().await;

    assert!(matches!(stopped, Err(Stopped::TakenOver)), "{stopped:?}");
    assert_eq!(show.there(), before);
}

#[tokio::test]
async fn a_large_segment_is_sent_in_parts() {
    let mut show = Show::new("").await;
    show.grow(usize::try_from(17 * MIB).unwrap());
    show.brought().await;
    show.close();
    show.is_whole().await;

    let largest = show.s3.asks().iter().map(|ask| ask.bytes).max().unwrap();
    assert!(largest < 8 * MIB, "a part is in memory, not the segment: {largest}");
}

#[tokio::test]
async fn what_is_deleted_beside_a_playlist_is_its_own_alone() {
    let mut show = Show::new("").await;
    show.grow(3_000);
    show.grow(3_000);
    show.brought().await;
    for other in ["live/show-1/another.mp4", "live/show-1/more/segment-1.m4s", "live/show-10/segment-1.m4s"] {
        let file = show.s3.file("vods", other);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "another's").unwrap();
    }
    let there: Vec<_> = show.bucket.beside(PLAYLIST).await.unwrap().into_iter().map(|(number, _)| number).collect();
    assert_eq!(there, [0, 1, 2]);

    show.bucket.delete_beside(PLAYLIST).await.unwrap();

    assert!(show.bucket.beside(PLAYLIST).await.unwrap().is_empty());
    assert_eq!(show.object("show-1/another.mp4"), b"another's");
    assert_eq!(show.object("show-1/more/segment-1.m4s"), b"another's");
    assert_eq!(show.object("show-10/segment-1.m4s"), b"another's");
    assert_eq!(show.there(), show.text, "whoever deletes it does so last");
}
