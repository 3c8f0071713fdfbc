//! Follows one publisher, and decides which file takes what it sends: when one begins, is full, or is over.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use jiff::Timestamp;
use ledger::Key;
use mux::{Event, Init, codec::Format};
use tallylight_crds::{
    Broadcast, BroadcastRef, FileName, RecordedTrack, RecordedTrackKind, Recording, RecordingSettings, RecordingSpec,
    RecordingState, RecordingStatus,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    Recorder, Since, Stage, finish,
    folder::Place,
    growing::Growing,
    name_of,
    part::Part,
    trouble::{Reason, Trouble},
    upload::Uploading,
};
use crate::{
    hub::Name,
    packager::{Fed, Follower},
    storage::{trouble::Trouble as BucketTrouble, upload::Growth},
};

/// What a file that is written slowly holds back, in bytes: 10 s of 6 Mbit/s. When it is full, whole segments are lost, counted,
/// and the next part begins.
const QUEUE: usize = 8 << 20;
/// Events taken at once: those of some seconds, for a file that has fallen behind.
const BATCH: usize = 64;
/// Longest time that power which fails may cost.
const SYNC: Duration = Duration::from_secs(1);
/// Longest wait for the last packets of a publisher that has left to be muxed.
const LAST: Duration = Duration::from_secs(2);
/// A write that takes longer is said to be slow, once a file: a disk that many share would else cost the store a lot of writes.
const SLOW: Duration = Duration::from_secs(3);
/// Pauses before a storage that was in trouble is tried again, from the first to the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A file that was longer than this shows that its storage was well.
const WELL: Duration = Duration::from_secs(60);
/// Names that are tried for a file whose own is taken.
const NAMES: u32 = 100;
/// Longest wait for a bucket to say whether a name is taken; without an answer it is free.
const NAME_DEADLINE: Duration = Duration::from_secs(2);
/// Longest wait for the parts that a session has had before; without an answer it counts anew.
const PARTS_DEADLINE: Duration = Duration::from_secs(5);

/// Records a publisher until it leaves.
pub(super) async fn run(recorder: Recorder, name: Name, mut stage: watch::Receiver<Stage>) {
    let mut part = 0;
    loop {
        let Stage { broadcast, on_air: _, has_left } = stage.borrow_and_update().clone();
        if has_left {
            return;
        }
        let settings = recorder.settings(&broadcast).await;
        let packaged = settings.is_some().then(|| recorder.0.packagers.of(&name)).flatten();
        let (Some(settings), Some(packaged)) = (settings, packaged) else {
            if stage.changed().await.is_err() {
                return;
            }
            continue;
        };
        // from its first packet on, though it is not on air yet
        let follower = packaged.follow(QUEUE);
        let Some((broadcast, since)) = on_air(&mut stage).await else { return };
        if since == Since::AnEarlierOne && part == 0 {
            part = parts_before(&recorder, &broadcast).await;
        }
        let session = broadcast.status_or_default().session;
        let spec = RecordingSpec {
            pool: broadcast.spec.pool.clone(),
            stream_id: broadcast.stream_id().to_owned(),
            broadcast: BroadcastRef {
                name: broadcast.metadata.name.clone().unwrap_or_default(),
                uid: broadcast.metadata.uid.clone().unwrap_or_default(),
            },
            session: session.ordinal,
            epoch: session.epoch,
            part,
            start_time: Timestamp::now(),
            format: settings.format,
            file_name: String::new(),
            storage: settings.storage.clone(),
            retention_seconds: settings.retention_seconds,
            node: recorder.0.identity.node.clone(),
        };
        let mut files = Files::new(recorder.clone(), settings, spec);
        files.follow(follower, &mut stage).await;
        part = files.end().await;
    }
}

/// Waits until the publisher is on air, or has been; `None` when it has left without.
async fn on_air(stage: &mut watch::Receiver<Stage>) -> Option<(Box<Broadcast>, Since)> {
    let stage = stage.wait_for(|stage| stage.on_air.is_some() || stage.has_left).await.ok()?;
    Some((stage.broadcast.clone(), stage.on_air?))
}

/// How many parts the session has had with earlier publishers.
async fn parts_before(recorder: &Recorder, broadcast: &Broadcast) -> i64 {
    let ordinal = broadcast.status_or_default().session.ordinal;
    match timeout(PARTS_DEADLINE, recorder.0.objects.of_broadcast(&Key::of(broadcast))).await {
        Ok(Ok(all)) => {
            let of_session = |recording: &&Recording| {
                recording.spec.session == ordinal
                    && Some(&recording.spec.broadcast.uid) == broadcast.metadata.uid.as_ref()
            };
            all.iter().filter(of_session).map(|recording| recording.spec.part).max().unwrap_or(0)
        }
        // a name tells parts of two publishers apart by their epochs
        Ok(Err(_)) | Err(_) => 0,
    }
}

/// The files of one publisher, one after the other.
struct Files {
    recorder: Recorder,
    settings: RecordingSettings,
    /// What the next part says, but for what is its own; `part` is the last one's.
    spec: RecordingSpec,
    init: Option<Arc<Init>>,
    open: Option<Open>,
    /// A part that has an object, but no file yet.
    pending: Option<Part>,
    retry: Option<Instant>,
    pause: Duration,
    batch: Vec<mux::Part>,
    lost: u64,
}

/// The file that grows.
struct Open {
    part: Part,
    place: Place,
    growing: Growing,
    uploading: Option<Uploading>,
    synced: Instant,
    said_slow: bool,
}

/// What beginning a file came to.
enum Begun {
    Yes(Place, Growing),
    /// Another file has its name.
    Taken,
    No(Trouble),
}

impl Files {
    fn new(recorder: Recorder, settings: RecordingSettings, spec: RecordingSpec) -> Self {
        Self {
            recorder,
            settings,
            spec,
            init: None,
            open: None,
            pending: None,
            retry: None,
            pause: AGAIN.0,
            batch: Vec::new(),
            lost: 0,
        }
    }

    /// Writes what comes until the publisher has left, or is to be recorded no more.
    async fn follow(&mut self, mut follower: Follower, stage: &mut watch::Receiver<Stage>) {
        let mut left: Option<Instant> = None;
        loop {
            let sync_due = self.open.as_ref().filter(|open| !open.growing.is_synced()).map(|open| open.synced + SYNC);
            let fed = tokio::select! {
                biased;
                changed = stage.changed(), if left.is_none() => {
                    let Stage { broadcast, on_air: _, has_left } = stage.borrow_and_update().clone();
                    if changed.is_err() || has_left {
                        left = Some(Instant::now() + LAST);
                    } else if self.recorder.settings(&broadcast).await.as_ref() != Some(&self.settings) {
                        return;
                    }
                    continue;
                }
                trouble = changes(self.open.as_mut()) => {
                    if let Some(open) = &mut self.open {
                        open.part.bucket_is(&self.recorder, trouble.as_ref().map(Trouble::of_bucket));
                    }
                    continue;
                }
                fed = follower.next() => fed,
                () = sleep_until(sync_due.unwrap_or_else(Instant::now)), if sync_due.is_some() => {
                    self.write().await;
                    continue;
                }
                () = sleep_until(left.unwrap_or_else(Instant::now)), if left.is_some() => return,
            };
            let (mut next, mut taken) = (Some(fed), 0);
            while let Some(fed) = next {
                match fed {
                    Fed::Event(Event::Init(_)) if left.is_some() && self.init.is_some() => return, // the next publisher's
                    Fed::Event(event) => self.take(event).await,
                    Fed::Lost { bytes } => self.lag(bytes).await,
                    // of who came before, when nothing of this one was muxed yet
                    Fed::Parked if self.init.is_none() && left.is_none() => {}
                    Fed::Parked | Fed::Ended => return,
                }
                taken += 1;
                next = if taken < BATCH { follower.next().now_or_never() } else { None };
            }
            self.write().await;
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Init(init) => {
                self.close().await;
                self.init = Some(init);
            }
            Event::Part(part) => {
                let begins = part.index == 0 && part.independent;
                if begins && self.is_full().await {
                    self.close().await;
                }
                if begins && self.open.is_none() {
                    self.begin().await;
                }
                if self.open.is_some() {
                    self.batch.push(part);
                } else {
                    self.lose(part.fragment.len());
                }
            }
            // a gap and a jump are in the times of what follows
            Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_) => {}
        }
    }

    /// Some segments are lost: what follows is another file.
    async fn lag(&mut self, bytes: u64) {
        warn!(stream = self.spec.stream_id, bytes, "the storage is too slow: segments are not recorded");
        self.recorder.0.metrics.lost(bytes);
        self.close().await;
    }

    fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
        self.recorder.0.metrics.lost(bytes);
    }

    async fn is_full(&mut self) -> bool {
        self.write().await;
        let Some(open) = &self.open else { return false };
        let seconds = i64::try_from(open.growing.duration().as_secs()).unwrap_or(i64::MAX);
        let bytes = i64::try_from(open.growing.bytes()).unwrap_or(i64::MAX);
        self.settings.max_duration_seconds.is_some_and(|most| seconds >= most)
            || self.settings.max_bytes.is_some_and(|most| bytes >= most)
    }

    /// Begins the next file, if the storage may be tried.
    async fn begin(&mut self) {
        let Some(init) = self.init.clone() else { return };
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            return;
        }
        if let Some(part) = self.pending.take() {
            match self.open(&part.recording, &init).await {
                Begun::Yes(place, growing) => return self.grow(part, place, growing),
                Begun::No(trouble) => return self.wait(part, trouble),
                Begun::Taken => self.give_up(part, "another file has its name"),
            }
        }
        self.spec.part += 1;
        self.spec.start_time = Timestamp::now();
        for suffix in 0..NAMES {
            self.spec.file_name = self.file_name(suffix);
            let mut recording = Recording::begun(&self.recorder.0.identity.namespace, self.spec.clone());
            recording.status = Some(RecordingStatus { tracks: tracks(&init), ..RecordingStatus::default() });
            let begun = self.open(&recording, &init).await;
            if matches!(begun, Begun::Taken) {
                continue;
            }
            let Some(discard) = self.recorder.open(&recording) else { return };
            let part = Part::begin(&self.recorder, recording, discard);
            match begun {
                Begun::Yes(place, growing) => self.grow(part, place, growing),
                Begun::No(trouble) => self.wait(part, trouble),
                Begun::Taken => {}
            }
            return;
        }
        warn!(
            stream = self.spec.stream_id,
            file = self.spec.file_name,
            "no free name for a file; use {{part}} in nameTemplate"
        );
        self.pause_after(Instant::now());
    }

    fn file_name(&self, suffix: u32) -> String {
        let RecordingSpec { stream_id, session, part, start_time: start, format, .. } = &self.spec;
        let name = FileName { stream_id, session: *session, part: *part, start: *start, format: *format };
        if suffix == 0 {
            return name.fill(&self.settings.name_template);
        }
        name.fill(&format!("{}-{}", self.settings.name_template, suffix + 1))
    }

    async fn open(&self, recording: &Recording, init: &Arc<Init>) -> Begun {
        let place = match self.recorder.place(recording) {
            Ok(place) => place,
            Err(trouble) => return Begun::No(trouble),
        };
        let folder = self.recorder.0.folders.get(&recording.spec.storage).cloned();
        let bucket = self.recorder.bucket(recording);
        let goes_to_bucket = bucket.is_some();
        if let Some(bucket) = bucket
            && let Ok(Ok(Some(_))) = timeout(NAME_DEADLINE, bucket.size(&recording.spec.file_name)).await
        {
            return Begun::Taken;
        }
        let (here, recording, init) = (place.clone(), recording.clone(), Arc::clone(init));
        let begin = move || {
            if let Some(folder) = folder {
                folder.has_room()?;
            }
            here.take(&recording)?;
            let link = |growing| if goes_to_bucket { here.link_upload().map(|()| growing) } else { Ok(growing) };
            Growing::begin(&here, &init).and_then(link).inspect_err(|_| {
                let _removed = here.forget(); // it is told why it could not be begun
            })
        };
        match self.recorder.blocking(begin).await {
            Ok(growing) => Begun::Yes(place, growing),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Begun::Taken,
            Err(error) => Begun::No(Trouble::of("begin a file", &error)),
        }
    }

    fn grow(&mut self, mut part: Part, place: Place, growing: Growing) {
        info!(
            stream = self.spec.stream_id,
            recording = name_of(&part.recording),
            file = part.recording.spec.file_name,
            lost_before = std::mem::take(&mut self.lost),
            "recording.started"
        );
        part.disk_is(&self.recorder, None);
        self.retry = None;
        let uploading = Uploading::begin(&self.recorder, &part.recording, &place, Growth::Open { len: 0 });
        self.open = Some(Open { part, place, growing, uploading, synced: Instant::now(), said_slow: false });
    }

    /// Has an object say why there is no file yet.
    fn wait(&mut self, mut part: Part, trouble: Trouble) {
        part.disk_is(&self.recorder, Some(trouble));
        self.pending = Some(part);
        self.pause_after(Instant::now());
    }

    fn pause_after(&mut self, now: Instant) {
        self.retry = Some(now + self.pause);
        self.pause = (self.pause * 2).min(AGAIN.1);
    }

    fn give_up(&self, part: Part, why: &str) {
        let (recorder, trouble) = (self.recorder.clone(), Trouble::new(Reason::Damaged, why));
        self.recorder.0.tasks.spawn(async move {
            let recording = part.recording.clone();
            part.failed(&recorder, &trouble).await;
            recorder.close(&recording);
        });
    }

    /// Writes what was taken, and syncs it when it is time.
    async fn write(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if open.part.discard.is_cancelled() {
            self.batch.clear();
            return self.throw_away(open);
        }
        let batch = std::mem::take(&mut self.batch);
        let bytes: u64 = batch.iter().map(|part| part.fragment.len()).sum();
        let sync = open.synced.elapsed() >= SYNC && !(batch.is_empty() && open.growing.is_synced());
        if batch.is_empty() && !sync {
            self.open = Some(open);
            return;
        }
        let mut growing = open.growing;
        let work = move || {
            let written = batch.iter().try_for_each(|part| growing.append(part));
            let began = Instant::now();
            let synced =
                if sync && written.is_ok() { growing.sync().map(|()| Some(began.elapsed())) } else { Ok(None) };
            // what has failed is let go of here: it is finished anew, by whoever holds the file then
            written.and(synced).map(|synced| (growing, synced))
        };
        let recorder = self.recorder.clone();
        let mut writing = std::pin::pin!(recorder.blocking(work));
        let (written, is_late) = match timeout(SLOW, &mut writing).await {
            Ok(written) => (written, false),
            Err(_elapsed) => {
                if !open.said_slow {
                    open.part.disk_is(&recorder, Some(Trouble::slow()));
                }
                (writing.await, true)
            }
        };
        match written {
            Ok((growing, synced)) => {
                open.growing = growing;
                if is_late && !open.said_slow {
                    open.said_slow = true;
                    open.part.disk_is(&recorder, None);
                }
                self.recorder.0.metrics.wrote(bytes);
                if let Some(time) = synced {
                    self.recorder.0.metrics.synced(time);
                    open.synced = Instant::now();
                    if let Some(uploading) = &open.uploading {
                        uploading.grown(open.growing.whole());
                    }
                    if open.growing.duration() > WELL {
                        self.pause = AGAIN.0;
                    }
                }
                self.open = Some(open);
            }
            Err(error) => {
                self.lose(bytes);
                self.break_off(open.part, open.place, open.uploading, &error);
            }
        }
    }

    /// The Recording is being deleted, which waits until nobody works on it.
    fn throw_away(&self, open: Open) {
        let recorder = self.recorder.clone();
        self.recorder.0.tasks.spawn(async move {
            if let Some(uploading) = open.uploading {
                uploading.stop().await;
            }
            recorder.close(&open.part.recording);
        });
    }

    /// The storage has failed under a file: what is there of it is finished when that can be, and the next part tried later.
    fn break_off(&mut self, part: Part, place: Place, uploading: Option<Uploading>, error: &std::io::Error) {
        part.say(&self.recorder, RecordingState::Finalizing, &Trouble::of("write to the file", error));
        self.pause_after(Instant::now());
        self.finish(part, place, finish::Begun { growing: None, uploading });
    }

    /// Ends the file that grows.
    async fn close(&mut self) {
        self.write().await;
        if let Some(Open { part, place, growing, uploading, .. }) = self.open.take() {
            self.finish(part, place, finish::Begun { growing: Some(growing), uploading });
        }
    }

    fn finish(&self, part: Part, place: Place, begun: finish::Begun) {
        let (recorder, recording) = (self.recorder.clone(), part.recording.clone());
        self.recorder.0.tasks.spawn(async move {
            finish::finish(&recorder, part, place, begun).await;
            recorder.close(&recording);
        });
    }

    /// Ends the last file. Returns which part it was.
    async fn end(mut self) -> i64 {
        self.close().await;
        if let Some(part) = self.pending.take() {
            let trouble = part.trouble();
            self.give_up(part, &trouble.message);
        }
        self.spec.part
    }
}

/// The next change of what is wrong with the bucket of a file that grows.
async fn changes(open: Option<&mut Open>) -> Option<BucketTrouble> {
    match open.and_then(|open| open.uploading.as_mut()) {
        Some(uploading) => uploading.changed().await,
        None => std::future::pending().await,
    }
}

/// What a file holds, as its Recording says it.
fn tracks(init: &Init) -> Vec<RecordedTrack> {
    let track = |track: &mux::Track| {
        let codec = track.config().rfc6381().to_owned();
        let none = RecordedTrack {
            kind: RecordedTrackKind::Video,
            codec,
            width: None,
            height: None,
            sample_rate: None,
            channels: None,
        };
        match track.config().format() {
            Format::Video { width, height } => {
                RecordedTrack { width: Some(width.into()), height: Some(height.into()), ..none }
            }
            Format::Audio { sample_rate, channels, .. } => RecordedTrack {
                kind: RecordedTrackKind::Audio,
                sample_rate: i32::try_from(sample_rate).ok(),
                channels: Some(channels.into()),
                ..none
            },
        }
    };
    init.tracks().iter().map(track).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> (watch::Sender<Stage>, watch::Receiver<Stage>) {
        let broadcast = Box::new(Broadcast::new("show", tallylight_crds::BroadcastSpec::default()));
        watch::channel(Stage { broadcast, on_air: None, has_left: false })
    }

    #[tokio::test]
    async fn a_publisher_that_was_on_air_for_a_moment_is_recorded() {
        let (sender, mut receiver) = stage();
        sender.send_modify(|stage| stage.on_air = Some(Since::ThisPublisher));
        sender.send_modify(|stage| stage.has_left = true);
        drop(sender);

        let found = on_air(&mut receiver).await;

        assert_eq!(found.map(|(_, since)| since), Some(Since::ThisPublisher), "a watch merges changes");
    }

    #[tokio::test]
    async fn a_publisher_that_left_before_it_was_on_air_is_not() {
        let (sender, mut receiver) = stage();
        sender.send_modify(|stage| stage.has_left = true);

        assert!(on_air(&mut receiver).await.is_none());
    }
}
