//! What is wrong with a storage, in the words of a Recording's condition, with the remedy.

use std::io::{self, ErrorKind};

use jiff::Timestamp;
pub(super) use tallylight_crds::RecordingTrouble as Reason;
use tallylight_crds::{Condition, ConditionStatus, RecordingStatus, set_condition};

use crate::storage;

/// What is wrong, and what a person can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What a folder's error means. `attempt` says what was tried.
    pub(super) fn of(attempt: &str, error: &io::Error) -> Self {
        let (reason, remedy) = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                (Reason::DiskFull, "make room in the storage; recording goes on by itself")
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                (Reason::StorageUnavailable, "let the node write in the storage's folder; recording goes on by itself")
            }
            ErrorKind::ResourceBusy => (
                Reason::StorageUnavailable,
                "the node that was thought lost still writes it; it is finished when that one lets go",
            ),
            _ => (Reason::StorageUnavailable, "see to the storage; recording goes on by itself"),
        };
        Self::new(reason, format!("failed to {attempt}: {error}; {remedy}"))
    }

    /// A write is not done yet.
    pub(super) fn slow() -> Self {
        let text = "the storage does not keep up; what does not fit in memory is not recorded; give it a faster disk, or fewer writers";
        Self::new(Reason::StorageSlow, text)
    }

    /// What stands in the way of an upload.
    pub(super) fn of_bucket(trouble: &storage::trouble::Trouble) -> Self {
        use storage::trouble::Trouble as Bucket;
        let reason = match trouble {
            Bucket::Unavailable { .. } => Reason::StorageUnavailable,
            Bucket::CredentialsRefused { .. } => Reason::CredentialsRefused,
            Bucket::BucketMissing => Reason::BucketMissing,
            Bucket::Denied { .. } => Reason::AccessDenied,
        };
        Self::new(reason, trouble.to_string())
    }

    /// Says it in a status that is not final.
    pub(super) fn say(&self, status: &mut RecordingStatus) {
        not_ready(status, self.reason.as_str(), &self.message);
    }
}

/// Says that a file is not there yet, or never will be.
pub(super) fn not_ready(status: &mut RecordingStatus, reason: &str, message: &str) {
    set_ready(status, ConditionStatus::False, reason, message);
}

/// Says that a file can be fetched.
pub(super) fn ready(status: &mut RecordingStatus) {
    set_ready(status, ConditionStatus::True, "Ready", "the file can be fetched");
}

fn set_ready(status: &mut RecordingStatus, is: ConditionStatus, reason: &str, message: &str) {
    let condition = Condition {
        kind: "Ready".to_owned(),
        status: is,
        observed_generation: None,
        last_transition_time: Timestamp::now(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    set_condition(&mut status.conditions, condition);
}
