//! What a node that is gone has left in a bucket: an upload that was not completed, or an object. Makes an object of it, and fetches
//! that. Each step may be done twice.
//!
//! `object_store` cannot list uploads and parts; it signs the URLs for that, and the answers are read here.

use std::path::PathBuf;

use axum::http::{Method, Request};
use futures::StreamExt as _;
use object_store::{
    GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _,
    client::{HttpRequestBody, HttpResponseBody},
    multipart::{MultipartStore as _, PartId},
    path,
    signer::{SignedUrlOptions, Signer as _},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    fs::OpenOptions,
    io::{AsyncSeekExt as _, AsyncWriteExt as _, SeekFrom},
    time::timeout,
};
use tracing::info;

use super::{
    bucket::{Bucket, REQUEST, no_answer},
    playlist,
    trouble::{Meaning, Trouble, meaning},
};

/// Largest answer: a list of 1,000 has less than 1 MB.
const MAX_ANSWER: usize = 4 << 20;
/// Lists of 1,000 that are asked for: an upload has 10,000 parts at most, and a key few uploads.
const MAX_LISTS: usize = 11;
/// What is fetched at once, in bytes, and in memory meanwhile.
const RANGE: u64 = 8 << 20;

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub bytes: u64,
    pub(super) etag: Option<String>,
}

/// A fetch that may be interrupted, and goes on where it was.
#[derive(Debug)]
pub struct Fetch {
    found: Found,
    file: PathBuf,
    at: u64,
}

impl Fetch {
    /// Of an object into a file, which is made anew.
    #[must_use]
    pub fn new(found: Found, file: PathBuf) -> Self {
        Self { found, file, at: 0 }
    }
}

/// Why a fetch was interrupted.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Bucket(Trouble),
    /// The object is another one by now, or gone.
    #[error("the object has changed")]
    Changed,
    #[error("failed to write the file")]
    File(#[source] std::io::Error),
}

/// An upload that is not over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    key: String,
    upload_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Uploads {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Begun>,
}

/// A part that the service has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sent {
    part_number: usize,
    #[serde(default, rename = "ETag")]
    etag: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parts {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_part_number_marker: String,
    #[serde(default, rename = "Part")]
    parts: Vec<Sent>,
}

impl Bucket {
    /// Makes an object of what is there of a file, when that is more than the object that is there, and aborts all else that is
    /// under way. `None` when there is nothing.
    ///
    /// # Errors
    /// When the service does not do it. What was done stays done.
    pub async fn salvage(&self, file_name: &str) -> Result<Option<Found>, Trouble> {
        let key = self.key(file_name);
        let object = self.found(&key).await?;
        let mut left = self.begun_of(&key).await?;
        let mut best: Option<(String, Vec<Sent>)> = None;
        for id in &left {
            let sent = self.sent(&key, id).await?;
            if bytes(&sent) > best.as_ref().map_or(0, |(_, best)| bytes(best)) {
                best = Some((id.clone(), sent));
            }
        }
        let mut salvaged = object.clone();
        if let Some((id, sent)) = best.filter(|(_, sent)| bytes(sent) > object.map_or(0, |object| object.bytes)) {
            info!(%key, parts = sent.len(), bytes = bytes(&sent), "upload.salvaged");
            let parts = sent.into_iter().map(|part| PartId { content_id: part.etag }).collect();
            // when it is gone another has been faster, and the object is there
            self.within(self.store().complete_multipart(&key, &id, parts)).await?;
            left.retain(|other| *other != id);
            salvaged = self.found(&key).await?;
        }
        self.abort_each(&key, &left).await?;
        Ok(salvaged)
    }

    /// Aborts what is under way of a file, whoever has begun it.
    ///
    /// # Errors
    /// When the service does not do it.
    pub async fn abort_all(&self, file_name: &str) -> Result<(), Trouble> {
        let key = self.key(file_name);
        let begun = self.begun_of(&key).await?;
        self.abort_each(&key, &begun).await
    }

    /// Aborts what is under way of the files beside a playlist, whoever has begun it.
    ///
    /// # Errors
    /// When the service does not do it.
    pub async fn abort_beside(&self, file_name: &str) -> Result<(), Trouble> {
        for Begun { key, upload_id } in self.begun(&format!("{}/", self.folder(file_name))).await? {
            let key = path::Path::from(key);
            if key.filename().is_some_and(|name| playlist::number(name).is_some()) {
                self.abort_each(&key, &[upload_id]).await?;
            }
        }
        Ok(())
    }

    /// Fetches what is not here yet of an object.
    ///
    /// # Errors
    /// When it is interrupted; it goes on with the same `fetch`, unless the object has changed.
    pub async fn fetch(&self, file_name: &str, fetch: &mut Fetch) -> Result<(), Interrupted> {
        let key = self.key(file_name);
        let begins = fetch.at == 0;
        let opened = OpenOptions::new().write(true).create(true).truncate(begins).open(&fetch.file).await;
        let mut file = opened.map_err(Interrupted::File)?;
        file.seek(SeekFrom::Start(fetch.at)).await.map_err(Interrupted::File)?;
        while fetch.at < fetch.found.bytes {
            let end = fetch.found.bytes.min(fetch.at + RANGE);
            let _room = self.room().await;
            let range = Some(GetRange::Bounded(fetch.at..end));
            let options = GetOptions { range, if_match: fetch.found.etag.clone(), ..GetOptions::default() };
            let read = async { self.store().get_opts(&key, options).await?.bytes().await };
            let bytes = match self.within(read).await {
                Ok(Some(bytes)) if bytes.len() as u64 == end - fetch.at => bytes,
                Ok(Some(_) | None) => return Err(Interrupted::Changed),
                Err(trouble) => return Err(Interrupted::Bucket(trouble)),
            };
            file.write_all(&bytes).await.map_err(Interrupted::File)?;
            file.flush().await.map_err(Interrupted::File)?;
            fetch.at = end;
        }
        file.sync_all().await.map_err(Interrupted::File)
    }

    async fn found(&self, key: &path::Path) -> Result<Option<Found>, Trouble> {
        let found = self.within(self.store().head(key)).await?;
        Ok(found.map(|found| Found { bytes: found.size, etag: found.e_tag }))
    }

    /// The uploads of exactly that key.
    async fn begun_of(&self, key: &path::Path) -> Result<Vec<String>, Trouble> {
        let begun = self.begun(key.as_ref()).await?;
        Ok(begun.into_iter().filter(|begun| begun.key == key.as_ref()).map(|begun| begun.upload_id).collect())
    }

    /// The uploads of all keys that begin so.
    async fn begun(&self, prefix: &str) -> Result<Vec<Begun>, Trouble> {
        let (mut found, mut after) = (Vec::new(), (String::new(), String::new()));
        for _ in 0..MAX_LISTS {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if !after.0.is_empty() {
                query.extend([("key-marker", after.0.as_str()), ("upload-id-marker", after.1.as_str())]);
            }
            let Some(list) = self.list::<Uploads>(&path::Path::default(), &query).await? else { break };
            found.extend(list.uploads);
            if !list.is_truncated {
                break;
            }
            after = (list.next_key_marker, list.next_upload_id_marker);
        }
        Ok(found)
    }

    /// The parts of an upload from the first to the last before one that is missing.
    async fn sent(&self, key: &path::Path, id: &str) -> Result<Vec<Sent>, Trouble> {
        let (mut sent, mut after) = (Vec::new(), String::new());
        for _ in 0..MAX_LISTS {
            let mut query = vec![("uploadId", id)];
            if !after.is_empty() {
                query.push(("part-number-marker", after.as_str()));
            }
            // none when it is over by now
            let Some(list) = self.list::<Parts>(key, &query).await? else { break };
            sent.extend(list.parts);
            if !list.is_truncated {
                break;
            }
            after = list.next_part_number_marker;
        }
        Ok(without_gaps(sent))
    }

    async fn abort_each(&self, key: &path::Path, ids: &[String]) -> Result<(), Trouble> {
        for id in ids {
            self.within(self.store().abort_multipart(key, id)).await?;
        }
        Ok(())
    }

    /// Asks for a list; `None` when there is no such thing.
    async fn list<T: DeserializeOwned>(&self, key: &path::Path, query: &[(&str, &str)]) -> Result<Option<T>, Trouble> {
        let options = SignedUrlOptions::default().with_query(query.iter().copied());
        let asked = async {
            let url = self.store().signed_url_opts(Method::GET, key, REQUEST, &options).await;
            let url = url.map_err(|error| meaning(&error))?;
            let request = Request::get(url.as_str()).body(HttpRequestBody::empty()).map_err(|_invalid| not_s3())?;
            let response = self.client().execute(request).await.map_err(|error| meaning(&error))?;
            let text = read(response.into_body()).await?;
            quick_xml::de::from_str(&text).map_err(|_invalid| not_s3())
        };
        match timeout(REQUEST, asked).await {
            Ok(Ok(list)) => Ok(Some(list)),
            Ok(Err(Meaning::Gone)) => Ok(None),
            Ok(Err(Meaning::Trouble(trouble))) => Err(trouble),
            Err(_elapsed) => Err(no_answer(REQUEST)),
        }
    }
}

async fn read(body: HttpResponseBody) -> Result<String, Meaning> {
    let (mut stream, mut bytes) = (body.bytes_stream(), Vec::new());
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| meaning(&error))?);
        if bytes.len() > MAX_ANSWER {
            return Err(not_s3());
        }
    }
    String::from_utf8(bytes).map_err(|_invalid| not_s3())
}

fn not_s3() -> Meaning {
    Meaning::Trouble(Trouble::Unavailable { why: "its answer is not one of S3".to_owned() })
}

fn bytes(sent: &[Sent]) -> u64 {
    sent.iter().map(|part| part.size).sum()
}

fn without_gaps(mut sent: Vec<Sent>) -> Vec<Sent> {
    sent.sort_by_key(|part| part.part_number);
    let whole = sent.iter().zip(1..).take_while(|(part, number)| part.part_number == *number).count();
    sent.truncate(whole);
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_s3_are_read() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
            <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>vods</Bucket><KeyMarker/>\
            <NextKeyMarker>live/b.mp4</NextKeyMarker><NextUploadIdMarker>Y</NextUploadIdMarker><MaxUploads>2</MaxUploads>\
            <IsTruncated>true</IsTruncated>\
            <Upload><Key>live/a.mp4</Key><UploadId>X</UploadId><Initiator><ID>i</ID></Initiator>\
            <StorageClass>STANDARD</StorageClass><Initiated>2026-11-10T20:48:33.000Z</Initiated></Upload>\
            <Upload><Key>live/b.mp4</Key><UploadId>Y</UploadId></Upload></ListMultipartUploadsResult>";
        let uploads: Uploads = quick_xml::de::from_str(text).unwrap();
        let found: Vec<_> = uploads.uploads.iter().map(|begun| (&*begun.key, &*begun.upload_id)).collect();
        assert_eq!(found, [("live/a.mp4", "X"), ("live/b.mp4", "Y")]);
        assert_eq!(
            (uploads.is_truncated, &*uploads.next_key_marker, &*uploads.next_upload_id_marker),
            (true, "live/b.mp4", "Y")
        );

        let text = "<ListPartsResult><PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>1</NextPartNumberMarker>\
            <IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><ETag>&quot;7778&quot;</ETag>\
            <Size>10485760</Size></Part></ListPartsResult>";
        let parts: Parts = quick_xml::de::from_str(text).unwrap();
        assert_eq!(parts.parts, [Sent { part_number: 1, etag: "\"7778\"".to_owned(), size: 10_485_760 }]);
        assert!(quick_xml::de::from_str::<Uploads>("<Other/>").unwrap().uploads.is_empty());
    }

    #[test]
    fn what_follows_a_part_that_is_missing_is_no_file() {
        let part = |part_number| Sent { part_number, etag: String::new(), size: 1 };
        assert_eq!(without_gaps(vec![part(2), part(1), part(4)]), [part(1), part(2)]);
        assert_eq!(without_gaps(vec![part(2)]), []);
    }
}
