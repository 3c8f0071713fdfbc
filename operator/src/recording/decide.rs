//! Decides what the operator does about a recording: from the object, its node and its pool. Knows no client and no clock.

use jiff::Timestamp;
use tallylight_crds::{LOCAL_STORAGE, Recording};

/// The node that is responsible for a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// It lives, or nothing else is known.
    Alive,
    /// Its container died, and is started again after a while, on the same disk.
    Down,
    /// It is silent. What is on its disk may come back with it.
    Silent,
    /// Its pod is no more, nor is what was on its disk.
    Gone,
}

/// The pool of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pool {
    Absent,
    Present {
        /// The nodes that are open, in order.
        open: Vec<String>,
        /// What the recording is brought to is a bucket: what is not there yet is on its node's disk.
        uploads: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Make this node responsible.
    Assign(String),
    /// Nobody can finish it.
    Fail,
    /// Nobody is left who could delete its file, or its file is gone.
    Release,
    /// Tell of it, or note that nobody wants to hear of it.
    Tell,
    /// It is kept until then.
    Keep(Timestamp),
    /// Its time is over.
    Delete,
}

pub(super) fn decide(recording: &Recording, node: Node, pool: &Pool, now: Timestamp) -> Step {
    let needs_its_node = recording.is_leaving() || !recording.state().is_final();
    match node {
        Node::Alive if needs_its_node => Step::Wait,
        Node::Down | Node::Silent | Node::Gone if needs_its_node => orphan(recording, node, pool),
        Node::Alive | Node::Down | Node::Silent | Node::Gone if !recording.is_announced() => Step::Tell,
        Node::Alive | Node::Down | Node::Silent | Node::Gone => match ledger::expiry(recording) {
            Some(end) if end <= now => Step::Delete,
            Some(end) => Step::Keep(end),
            None => Step::Wait,
        },
    }
}

fn orphan(recording: &Recording, node: Node, pool: &Pool) -> Step {
    let end = if recording.is_leaving() { Step::Release } else { Step::Fail };
    let (open, uploads) = match pool {
        Pool::Absent => return end,
        Pool::Present { open, uploads } => (open, *uploads),
    };
    if recording.spec.storage == LOCAL_STORAGE {
        return if node == Node::Gone { end } else { Step::Wait };
    }
    if uploads && node == Node::Down {
        return Step::Wait;
    }
    heir(recording, open).map_or(Step::Wait, Step::Assign)
}

/// One of the open nodes, another one for another recording: a node that was lost had many.
fn heir(recording: &Recording, open: &[String]) -> Option<String> {
    let name = recording.metadata.name.as_deref().unwrap_or_default();
    let spread = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    open.get(spread.checked_rem(open.len())?).cloned()
}

#[cfg(test)]
mod tests {
    use ledger::conformance::{self, at};
    use tallylight_crds::{RecordingHook, RecordingState};

    use super::*;

    fn recording(storage: &str, state: RecordingState) -> Recording {
        let mut recording = conformance::recording(state);
        recording.spec.storage = storage.into();
        recording
    }

    fn leaving(mut recording: Recording) -> Recording {
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(3000));
        recording.metadata.deletion_timestamp = Some(time);
        recording
    }

    fn step(recording: &Recording, node: Node, open: &[&str]) -> Step {
        let open = open.iter().map(|&node| node.to_owned()).collect();
        decide(recording, node, &Pool::Present { open, uploads: recording.spec.storage == "bucket" }, at(2030))
    }

    #[test]
    fn what_a_lost_node_leaves_behind_goes_to_another_where_that_reaches_it() {
        let shared = recording("archive", RecordingState::Uploading);
        assert_eq!(step(&shared, Node::Alive, &["media-1"]), Step::Wait);
        assert_eq!(step(&shared, Node::Silent, &["media-1"]), Step::Assign("media-1".into()));
        assert_eq!(step(&shared, Node::Gone, &[]), Step::Wait, "another one will come");
        assert_eq!(decide(&shared, Node::Gone, &Pool::Absent, at(0)), Step::Fail);
        assert_eq!(step(&leaving(shared.clone()), Node::Gone, &["media-1"]), Step::Assign("media-1".into()));
        assert_eq!(decide(&leaving(shared), Node::Gone, &Pool::Absent, at(0)), Step::Release);
    }

    #[test]
    fn what_is_not_in_its_bucket_yet_waits_for_a_container_that_is_started_again() {
        let bucket = recording("bucket", RecordingState::Uploading);
        assert_eq!(step(&bucket, Node::Down, &["media-1"]), Step::Wait);
        assert_eq!(step(&bucket, Node::Silent, &["media-1"]), Step::Assign("media-1".into()));
        let shared = recording("archive", RecordingState::Recording);
        assert_eq!(step(&shared, Node::Down, &["media-1"]), Step::Assign("media-1".into()), "nothing is on its disk");
    }

    #[test]
    fn what_is_on_a_nodes_own_disk_waits_for_it_and_goes_with_it() {
        let local = recording(LOCAL_STORAGE, RecordingState::Recording);
        assert_eq!(step(&local, Node::Silent, &["media-1"]), Step::Wait);
        assert_eq!(step(&local, Node::Gone, &["media-1"]), Step::Fail);
        assert_eq!(step(&leaving(local.clone()), Node::Silent, &["media-1"]), Step::Wait);
        assert_eq!(step(&leaving(local), Node::Gone, &["media-1"]), Step::Release);
    }

    #[test]
    fn one_that_is_done_is_told_of_then_kept_then_deleted() {
        let mut ready = recording("archive", RecordingState::Ready);
        assert_eq!(step(&ready, Node::Gone, &[]), Step::Tell, "whatever became of its node");
        ready.status.as_mut().unwrap().hook = Some(RecordingHook { sequence: 3 });
        assert_eq!(step(&ready, Node::Alive, &[]), Step::Keep(at(2060)));
        assert_eq!(decide(&ready, Node::Alive, &Pool::Absent, at(2060)), Step::Delete);
        ready.spec.retention_seconds = None;
        assert_eq!(step(&ready, Node::Alive, &[]), Step::Wait);
    }
}
