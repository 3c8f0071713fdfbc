//! The part of the suite that is about recordings.

use json_patch::Patch;
use serde_json::json;
use tallylight_crds::{
    Action, Broadcast, BroadcastRef, BroadcastSpec, RECORD_ANNOTATION, RECORDING_FINALIZER, Recording, RecordingFormat,
    RecordingSpec, RecordingState, RecordingStatus,
};

use super::{Suite, at, claim, end_of, uid};
use crate::{Announced, Error, Key, Recordings, Rejection, Store, announce, note};

/// What `node` says of a part of the first session of a Broadcast.
///
/// # Panics
/// When the Broadcast has no name or no UID.
#[must_use]
pub fn recording_spec(broadcast: &Broadcast, part: i64, node: &str) -> RecordingSpec {
    let name = broadcast.metadata.name.clone().expect("a stored Broadcast has a name");
    RecordingSpec {
        pool: "live".into(),
        stream_id: broadcast.stream_id().to_owned(),
        file_name: format!("{name}-{part}.mp4"),
        broadcast: BroadcastRef { name, uid: uid(broadcast).to_owned() },
        session: 1,
        epoch: 1,
        part,
        start_time: at(0),
        format: RecordingFormat::Mp4,
        storage: "local".into(),
        retention_seconds: None,
        node: node.into(),
    }
}

/// A recording of a Broadcast `studio` with the UID `u`: from second 1000 to second 2000, in a state, to be kept for a minute more.
#[must_use]
pub fn recording(state: RecordingState) -> Recording {
    let mut studio = Broadcast::new("studio", BroadcastSpec::default());
    studio.metadata.uid = Some("u".into());
    let spec = recording_spec(&studio, 1, "media-0");
    let spec = RecordingSpec { start_time: at(1000), retention_seconds: Some(60), ..spec };
    let mut recording = Recording::begun("default", spec);
    recording.status = Some(RecordingStatus { state, end_time: Some(at(2000)), ..RecordingStatus::default() });
    recording
}

fn ready() -> Patch {
    serde_json::from_value(json!([
        {"op": "test", "path": "/status/state", "value": "Recording"},
        {"op": "replace", "path": "/status/state", "value": "Ready"},
        {"op": "add", "path": "/status/endTime", "value": at(60)},
        {"op": "add", "path": "/status/durationMilliseconds", "value": 60_000},
        {"op": "add", "path": "/status/bytes", "value": 1_000},
        {"op": "add", "path": "/status/location", "value": "file:///recordings/x.mp4"},
    ]))
    .expect("a patch")
}

fn key(recording: &Recording) -> Key {
    Key::of_recording(recording)
}

fn uid_of(recording: &Recording) -> &str {
    recording.metadata.uid.as_deref().expect("a stored Recording has a UID")
}

impl<S: Store + Recordings> Suite<'_, S> {
    pub(super) async fn recordings(&self) {
        self.a_recording_begins_once_and_is_found_by_what_it_is().await;
        self.a_recording_that_is_ready_is_told_of_once().await;
        self.whoever_read_before_another_append_appends_nothing_twice().await;
        self.a_recording_of_a_broadcast_that_is_gone_is_told_of_to_nobody().await;
        self.a_recording_goes_when_its_file_is_gone().await;
        self.another_node_becomes_responsible().await;
        self.an_annotation_comes_and_goes().await;
    }

    async fn record(&self, broadcast: &Broadcast, part: i64, node: &str) -> Recording {
        let begun = Recording::begun(self.namespace, recording_spec(broadcast, part, node));
        self.store.create_recording(&begun).await.expect("a new name is free")
    }

    async fn finish(&self, recording: &Recording) -> Recording {
        self.store.patch_recording(&key(recording), uid_of(recording), &ready()).await.expect("it may become Ready")
    }

    /// A Broadcast whose session has ended.
    async fn recorded(&self, name: &str) -> Broadcast {
        let made = self.create(name, &[]).await;
        let live = self.done(&made, &claim("c1", "node-1")).await;
        self.done(&live, &end_of(&live)).await
    }

    async fn tell(&self, known: &Broadcast, recording: &Recording) -> Announced {
        announce(self.store, known, recording, Action::VodReady, at(70)).await.expect("the store answers")
    }

    async fn a_recording_begins_once_and_is_found_by_what_it_is(&self) {
        let broadcast = self.recorded("rec-found").await;
        let made = self.record(&broadcast, 1, "node-rec-1").await;
        assert_eq!(made.state(), RecordingState::Recording);
        // by whoever began it, and by whoever has read it since
        for known in [&Recording::begun(self.namespace, made.spec.clone()), &made] {
            let again = self.store.create_recording(known).await;
            assert!(matches!(again, Err(Error::AlreadyExists)), "{again:?}");
        }
        let other = self.record(&broadcast, 2, "node-rec-10").await;

        let names = |all: Vec<Recording>| all.iter().map(|r| r.spec.part).collect::<Vec<_>>();
        let of_node = self.store.recordings_of_node(self.namespace, "node-rec-1").await.expect("the store answers");
        assert_eq!(names(of_node), [1]);
        let mut of_both = names(self.store.recordings_of(self.namespace, Some("rec-found")).await.expect("an answer"));
        of_both.sort_unstable();
        assert_eq!(of_both, [1, 2]);
        let all = self.store.recordings_of(self.namespace, None).await.expect("an answer");
        assert!(all.len() >= 2);
        let file =
            self.store.recording_of_file(self.namespace, "live", &other.spec.file_name).await.expect("an answer");
        assert_eq!(file.map(|found| found.spec.part), Some(2));
        let none =
            self.store.recording_of_file(self.namespace, "other", &other.spec.file_name).await.expect("an answer");
        assert!(none.is_none());
    }

    async fn a_recording_that_is_ready_is_told_of_once(&self) {
        let broadcast = self.recorded("rec-told").await;
        let first = self.record(&broadcast, 1, "node-1").await;
        let first = self.finish(&first).await;
        let Announced::Appended { broadcast: told, sequence } = self.tell(&broadcast, &first).await else {
            panic!("the first event of a recording")
        };
        assert_eq!(sequence, 3);
        let event = told.status_or_default().hooks.pending[2].clone();
        let vod = event.vod.expect("it says of which recording");
        assert_eq!(
            (vod.id.as_str(), vod.name.as_str()),
            (first.metadata.name.as_deref().unwrap_or_default(), "rec-told-1.mp4")
        );
        assert_eq!(vod.duration_milliseconds, Some(60_000));

        let crashed = self.tell(&broadcast, &first).await;
        assert!(matches!(crashed, Announced::Found { sequence: 3 }), "{crashed:?}");
        note(self.store, &first, 3).await.expect("it is noted");
        note(self.store, &first, 3).await.expect("it may be noted again");
        assert!(matches!(self.tell(&broadcast, &first).await, Announced::Noted));

        let second = self.record(&broadcast, 2, "node-1").await;
        let second = self.finish(&second).await;
        assert!(matches!(self.tell(&told, &second).await, Announced::Appended { sequence: 4, .. }));
        let announced = self.get("rec-told").await.status_or_default().hooks.announced;
        assert_eq!(announced.len(), 1, "the first says it itself: {announced:?}");
        assert!(matches!(self.tell(&broadcast, &first).await, Announced::Noted), "and is not told of again");
    }

    async fn whoever_read_before_another_append_appends_nothing_twice(&self) {
        let broadcast = self.recorded("rec-race").await;
        let first = self.record(&broadcast, 1, "node-1").await;
        let first = self.finish(&first).await;
        let all = (0..4).map(|_| self.tell(&broadcast, &first));
        let mut appended = 0;
        for told in futures_of(all).await {
            appended += usize::from(matches!(told, Announced::Appended { .. }));
        }
        assert_eq!(appended, 1);
        assert_eq!(self.get("rec-race").await.status_or_default().hooks.last_sequence, 3);
    }

    async fn a_recording_of_a_broadcast_that_is_gone_is_told_of_to_nobody(&self) {
        let broadcast = self.recorded("rec-gone").await;
        let recording = self.record(&broadcast, 1, "node-1").await;
        let recording = self.finish(&recording).await;
        self.store.delete(&self.key("rec-gone"), uid(&broadcast)).await.expect("it is there");
        let fresh = self.create("rec-gone", &[]).await;
        assert!(matches!(self.tell(&broadcast, &recording).await, Announced::Gone));
        let early = announce(self.store, &fresh, &recording, Action::VodReady, at(70)).await.expect("an answer");
        assert!(matches!(early, Announced::Rejected(Rejection::NoSuchSession)), "{early:?}");
    }

    async fn a_recording_goes_when_its_file_is_gone(&self) {
        let broadcast = self.recorded("rec-deleted").await;
        let recording = self.record(&broadcast, 1, "node-1").await;
        assert_eq!(recording.metadata.finalizers.as_deref(), Some(&[RECORDING_FINALIZER.to_owned()][..]));
        self.store.delete_recording(&key(&recording), uid_of(&recording)).await.expect("it is there");
        let leaving = self.store.recording(&key(&recording)).await.expect("an answer").expect("its file is there");
        assert!(leaving.is_leaving());
        self.store.release_recording(&recording).await.expect("what was read before will do");
        assert!(self.store.recording(&key(&recording)).await.expect("an answer").is_none());
        self.store.release_recording(&recording).await.expect("a release may be repeated");
        let gone = self.store.delete_recording(&key(&recording), uid_of(&recording)).await;
        assert!(matches!(gone, Err(Error::NotFound)), "{gone:?}");
    }

    async fn another_node_becomes_responsible(&self) {
        let broadcast = self.recorded("rec-adopted").await;
        let made = self.record(&broadcast, 1, "node-lost").await;
        let adopted = self.store.assign_recording(&made, "node-2").await.expect("it is as it was read");
        assert_eq!(adopted.spec.node, "node-2");
        let late = self.store.assign_recording(&made, "node-3").await;
        assert!(matches!(late, Err(Error::Conflict)), "{late:?}");
    }

    async fn an_annotation_comes_and_goes(&self) {
        let made = self.create("rec-asked", &[]).await;
        let asked = self.store.annotate(&made, RECORD_ANNOTATION, Some("true")).await.expect("it is there");
        assert!(asked.is_asked_to_record());
        let more = self.store.annotate(&asked, "example.com/other", Some("x")).await.expect("it is there");
        assert_eq!(more.metadata.annotations.as_ref().map(std::collections::BTreeMap::len), Some(2));
        self.store.annotate(&more, RECORD_ANNOTATION, None).await.expect("it is there");
        assert!(!self.get("rec-asked").await.is_asked_to_record());
        let mut other = made;
        other.metadata.uid = Some("another".into());
        let other = self.store.annotate(&other, RECORD_ANNOTATION, Some("true")).await;
        assert!(matches!(other, Err(Error::Conflict)), "{other:?}");
    }
}

/// Runs four at once.
async fn futures_of<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let last = [all.pop(), all.pop(), all.pop(), all.pop()].map(|it| it.expect("there are four"));
    let [a, b, c, d] = last;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    vec![a, b, c, d]
}
