//! What is wrong with a bucket, decided by the code of its answer, with what a person can do. It holds no credential and no text
//! of the service, whose answers may repeat parts of a request.

use std::error::Error as StdError;

use object_store::client::HttpError;

use super::{credentials::Unreadable, wire::Answer};

/// Why something is not in a bucket yet. Uploads go on by themselves once it is cured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("the storage cannot be reached or does not work ({why}); the upload goes on by itself when it does")]
    Unavailable { why: String },
    #[error(
        "the storage refuses the credentials ({why}); correct the Secret or the variables of AWS, and the clock of the node"
    )]
    CredentialsRefused { why: String },
    #[error("the bucket does not exist; make it, or correct its name, its region and its endpoint")]
    BucketMissing,
    #[error(
        "the storage does not allow it ({why}); allow these credentials s3:PutObject, s3:GetObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListMultipartUploadParts, s3:ListBucketMultipartUploads and s3:ListBucket"
    )]
    Denied { why: String },
}

impl Trouble {
    /// As a condition's reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "StorageUnavailable",
            Self::CredentialsRefused { .. } => "CredentialsRefused",
            Self::BucketMissing => "BucketMissing",
            Self::Denied { .. } => "AccessDenied",
        }
    }
}

/// What a failed request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// There is no such upload any more, or no such object.
    Gone,
    Trouble(Trouble),
}

pub(super) fn meaning(error: &(dyn StdError + 'static)) -> Meaning {
    if let Some(answer) = find::<Answer>(error) {
        return of_answer(answer);
    }
    if let Some(unreadable) = find::<Unreadable>(error) {
        let why = format!("{} cannot be read", unreadable.file.display());
        return Meaning::Trouble(Trouble::CredentialsRefused { why });
    }
    let why = match find::<HttpError>(error) {
        Some(error) => format!("{:?}", error.kind()).to_lowercase(),
        None => "its answer is not one of S3".to_owned(),
    };
    Meaning::Trouble(Trouble::Unavailable { why })
}

fn of_answer(answer: &Answer) -> Meaning {
    let why = answer.to_string();
    let status = answer.status.as_u16();
    match (answer.code.as_str(), status) {
        // parts that are not those of the upload, or another object: as if it were not there
        ("NoSuchUpload" | "NoSuchKey" | "InvalidPart" | "InvalidPartOrder" | "PreconditionFailed", _) => Meaning::Gone,
        ("NoSuchBucket", _) => Meaning::Trouble(Trouble::BucketMissing),
        (
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "RequestTimeTooSkewed"
            | "AuthorizationHeaderMalformed",
            _,
        )
        | (_, 401) => Meaning::Trouble(Trouble::CredentialsRefused { why }),
        (_, 403) => Meaning::Trouble(Trouble::Denied { why }),
        ("", 404 | 412) => Meaning::Gone,
        (_, _) => Meaning::Trouble(Trouble::Unavailable { why }),
    }
}

/// The error of that type in a chain.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn of(status: u16, code: &str) -> Meaning {
        of_answer(&Answer { status: StatusCode::from_u16(status).unwrap(), code: code.to_owned() })
    }

    fn reason(status: u16, code: &str) -> &'static str {
        match of(status, code) {
            Meaning::Trouble(trouble) => trouble.reason(),
            Meaning::Gone => "Gone",
        }
    }

    #[test]
    fn an_answer_is_told_by_its_code() {
        assert_eq!(reason(404, "NoSuchUpload"), "Gone");
        assert_eq!(reason(404, "NoSuchBucket"), "BucketMissing");
        assert_eq!(reason(404, ""), "Gone");
        assert_eq!((reason(412, ""), reason(412, "PreconditionFailed")), ("Gone", "Gone"));
        assert_eq!(reason(404, "PageNotFound"), "StorageUnavailable");
        assert_eq!(reason(403, "InvalidAccessKeyId"), "CredentialsRefused");
        assert_eq!(reason(400, "ExpiredToken"), "CredentialsRefused");
        assert_eq!(reason(403, "AccessDenied"), "AccessDenied");
        assert_eq!(reason(503, "SlowDown"), "StorageUnavailable");
    }
}
