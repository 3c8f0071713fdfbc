//! One Recording that this process works on: its object, and what the store is told of it.

use tallylight_crds::{Recording, RecordingState, RecordingStatus};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Recorder,
    metrics::{Outcome, Standing},
    objects::Told,
    trouble::{self, Reason, Trouble},
};

/// A Recording whose file is begun, or to be.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) recording: Recording,
    /// Cancelled when its file is to be thrown away.
    pub(super) discard: CancellationToken,
    status: watch::Sender<RecordingStatus>,
    telling: JoinHandle<Told>,
    standing: Standing,
    obstacles: Obstacles,
}

/// What is in the way of a file that grows. Each has its own end; the disk's is said first.
#[derive(Debug, Default)]
struct Obstacles {
    disk: Option<Trouble>,
    bucket: Option<Trouble>,
}

impl Obstacles {
    fn first(&self) -> Option<&Trouble> {
        self.disk.as_ref().or(self.bucket.as_ref())
    }
}

impl Part {
    /// Has the object made, and told of what follows. `recording` has the status that it begins with.
    pub(super) fn begin(recorder: &Recorder, recording: Recording, discard: CancellationToken) -> Self {
        // of a volume they are beside the file; of a bucket another node finds them in the store alone
        let tracks = recorder.bucket(&recording).map(|_bucket| recording.status_or_default().tracks);
        let begun = RecordingStatus { tracks: tracks.unwrap_or_default(), ..RecordingStatus::default() };
        let status = watch::Sender::new(begun);
        let (objects, told) = (recorder.0.objects.clone(), recording.clone());
        let wanted = status.subscribe();
        let telling = recorder.0.tasks.spawn(async move { objects.tell(told, wanted).await });
        let standing = Standing::new(recorder.0.metrics.clone());
        Self { recording, discard, status, telling, standing, obstacles: Obstacles::default() }
    }

    /// Says in the object of a file that grows, or is to, what is wrong with its disk; `None` when it is well.
    pub(super) fn disk_is(&mut self, recorder: &Recorder, trouble: Option<Trouble>) {
        self.obstacles.disk = trouble;
        self.say_obstacle(recorder);
    }

    /// Says in the object of a file that grows what is wrong with its bucket; `None` when it is well.
    pub(super) fn bucket_is(&mut self, recorder: &Recorder, trouble: Option<Trouble>) {
        self.obstacles.bucket = trouble;
        self.say_obstacle(recorder);
    }

    /// Says in the object what is wrong; `state` is what it is at.
    pub(super) fn say(&self, recorder: &Recorder, state: RecordingState, trouble: &Trouble) {
        let mut next = self.status.borrow().clone();
        next.state = state;
        trouble.say(&mut next);
        if next == *self.status.borrow() {
            return;
        }
        recorder.0.metrics.trouble(trouble.reason);
        self.standing.is(state, Some(trouble.reason));
        warn!(recording = self.name(), file = self.recording.spec.file_name, %trouble, "a recording is in trouble");
        self.status.send_replace(next);
    }

    fn say_obstacle(&self, recorder: &Recorder) {
        match self.obstacles.first() {
            Some(trouble) => self.say(recorder, RecordingState::Recording, trouble),
            None => self.say_well(),
        }
    }

    /// Says in the object that nothing is wrong any more.
    fn say_well(&self) {
        self.status.send_if_modified(|status| {
            let was_ill = !status.conditions.is_empty();
            if was_ill {
                trouble::not_ready(status, "Recording", "the file grows");
                self.standing.is(RecordingState::Recording, None);
            }
            was_ill
        });
    }

    /// Says in the object that the file is being made whole.
    pub(super) fn say_finalizing(&self) {
        self.status.send_modify(|status| {
            status.state = RecordingState::Finalizing;
            trouble::not_ready(status, "Finalizing", "the file is being made whole");
        });
        self.standing.is(RecordingState::Finalizing, None);
    }

    /// Says in the object that the file is whole, and on its way to its bucket.
    pub(super) fn say_uploading(&self) {
        self.status.send_modify(|status| {
            status.state = RecordingState::Uploading;
            trouble::not_ready(status, "Uploading", "the file is being uploaded");
        });
        self.standing.is(RecordingState::Uploading, None);
    }

    /// The file can be fetched. Returns when the store knows, or never will.
    pub(super) async fn ready(self, recorder: &Recorder, status: RecordingStatus) -> Told {
        info!(
            recording = self.name(),
            stream = self.recording.spec.stream_id,
            file = self.recording.spec.file_name,
            bytes = status.bytes,
            milliseconds = status.duration_milliseconds,
            "recording.ready"
        );
        recorder.0.metrics.ended(Outcome::Ready);
        self.end(status).await
    }

    /// There will be no file.
    pub(super) async fn failed(self, recorder: &Recorder, trouble: &Trouble) -> Told {
        warn!(recording = self.name(), file = self.recording.spec.file_name, %trouble, "recording.failed");
        recorder.0.metrics.ended(Outcome::Failed);
        let mut status = self.status.borrow().clone();
        status.state = RecordingState::Failed;
        status.end_time = Some(jiff::Timestamp::now());
        trouble.say(&mut status);
        self.end(status).await
    }

    async fn end(self, status: RecordingStatus) -> Told {
        self.standing.is(status.state, None);
        self.status.send_replace(status);
        self.telling.await.unwrap_or(Told::GivenUp)
    }

    /// What was last said to be wrong.
    pub(super) fn trouble(&self) -> Trouble {
        let said = self.status.borrow().conditions.first().map(|condition| condition.message.clone());
        Trouble::new(Reason::StorageUnavailable, said.unwrap_or_else(|| "nothing could be written".to_owned()))
    }

    fn name(&self) -> &str {
        self.recording.metadata.name.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_well_again_cures_no_bucket() {
        let away = Trouble::new(Reason::StorageUnavailable, "no answer");
        let mut obstacles = Obstacles { disk: Some(Trouble::slow()), bucket: Some(away.clone()) };
        assert_eq!(obstacles.first(), Some(&Trouble::slow()));
        obstacles.disk = None;
        assert_eq!(obstacles.first(), Some(&away));
    }
}
