//! A bucket of S3, by `object_store`. It does not retry: whoever uploads does.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::http::{HeaderValue, Method};
use object_store::{
    ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::HttpClient,
    path,
    signer::Signer,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use url::Url;

use super::{
    credentials::Folder,
    pace::Pace,
    trouble::{Meaning, Trouble, meaning},
    url::{Addressing, BucketUrl, Encryption},
    wire::{Acl, Wire},
};

/// Region of services that have none.
const DEFAULT_REGION: &str = "us-east-1";
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time of a request that carries no media.
pub(super) const REQUEST: Duration = Duration::from_secs(30);
/// Longest time of any request: above what a part may take. Each caller has a deadline of its own.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Parts in memory at once, of all files that are uploaded there: 16 of 5 MiB fill 1 Gbit/s at 0.6 s a part. More wait their turn.
const PARTS: usize = 16;
/// How long a URL that players are sent to is good: they ask for ranges of a file for as long as they play it. With credentials
/// that are lent for a time it ends with them.
const PRESIGNED: Duration = Duration::from_secs(6 * 3_600);

/// See the module. Clones share connections and bandwidth.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    store: AmazonS3,
    /// What it sends its requests by.
    client: HttpClient,
    name: String,
    prefix: String,
    pace: Option<Mutex<Pace>>,
    room: Semaphore,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.0.name)
    }
}

impl Bucket {
    /// Makes the client; asks nothing of the service.
    ///
    /// # Errors
    /// When variables of AWS contradict each other, or the system has no certificate authorities.
    pub fn new(url: &BucketUrl) -> anyhow::Result<Self> {
        // fails when the process has a provider already, and then that one serves
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let credentials = Arc::new(OnceLock::new());
        let builder = builder(url);
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let acl = match &url.acl {
            Some(acl) => {
                let value = HeaderValue::from_str(acl).context("the ACL is no header")?;
                Some(Acl { value, region: region.clone(), credentials: Arc::clone(&credentials) })
            }
            None => None,
        };
        let wire = Wire::new(acl);
        let made = builder.with_region(region).with_http_connector(wire.clone()).build();
        let store = made.context("failed to make the client of S3")?;
        let client = wire.client().context("the client of S3 has no connection")?;
        let _first = credentials.set(Arc::clone(store.credentials())); // nobody else has set it
        let pace = url.max_megabits_per_second.map(|speed| Mutex::new(Pace::new(speed)));
        Ok(Self(Arc::new(Inner {
            store,
            client,
            name: url.bucket.clone(),
            prefix: url.prefix.clone(),
            pace,
            room: Semaphore::new(PARTS),
        })))
    }

    /// Where a file is, for people and for a Recording's status.
    #[must_use]
    pub fn location(&self, file_name: &str) -> String {
        format!("s3://{}/{}", self.0.name, self.key(file_name))
    }

    /// Size of a file that is there.
    ///
    /// # Errors
    /// When the service does not say.
    pub async fn size(&self, file_name: &str) -> Result<Option<u64>, Trouble> {
        let asked = self.within(self.0.store.head(&self.key(file_name))).await?;
        Ok(asked.map(|found| found.size))
    }

    /// Deletes a file; one that is not there is deleted.
    ///
    /// # Errors
    /// When the service does not do it.
    pub async fn delete(&self, file_name: &str) -> Result<(), Trouble> {
        self.within(self.0.store.delete(&self.key(file_name))).await.map(|_deleted| ())
    }

    /// A URL by which anybody can fetch a file for some hours.
    ///
    /// # Errors
    /// When there are no credentials to sign it with.
    pub async fn presigned(&self, file_name: &str) -> Result<Url, Trouble> {
        self.presigned_for(file_name, PRESIGNED).await
    }

    /// As [`presigned`](Self::presigned), for that long.
    ///
    /// # Errors
    /// Likewise.
    pub async fn presigned_for(&self, file_name: &str, lifetime: Duration) -> Result<Url, Trouble> {
        let key = self.key(file_name);
        let url = self.within(self.0.store.signed_url(Method::GET, &key, lifetime)).await?;
        url.ok_or_else(|| Trouble::Unavailable { why: "no URL could be signed".to_owned() })
    }

    pub(super) fn client(&self) -> &HttpClient {
        &self.0.client
    }

    pub(super) fn store(&self) -> &AmazonS3 {
        &self.0.store
    }

    pub(super) fn key(&self, file_name: &str) -> path::Path {
        path::Path::from(format!("{}/{file_name}", self.0.prefix))
    }

    /// How long to wait before so many bytes may be sent.
    pub(super) fn pause(&self, bytes: u64) -> Duration {
        let Some(pace) = &self.0.pace else { return Duration::ZERO };
        pace.lock().unwrap_or_else(PoisonError::into_inner).wait(bytes, Instant::now())
    }

    /// Waits until a part may be read.
    pub(super) async fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.0.room.acquire().await.ok() // it is never closed
    }

    /// One request; `None` when there is no such thing.
    pub(super) async fn within<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        match timeout(REQUEST, request).await {
            Ok(Ok(done)) => Ok(Some(done)),
            Ok(Err(error)) => match meaning(&error) {
                Meaning::Gone => Ok(None),
                Meaning::Trouble(trouble) => Err(trouble),
            },
            Err(_elapsed) => Err(no_answer(REQUEST)),
        }
    }
}

pub(super) fn no_answer(deadline: Duration) -> Trouble {
    Trouble::Unavailable { why: format!("no answer within {} s", deadline.as_secs()) }
}

fn builder(url: &BucketUrl) -> AmazonS3Builder {
    // the variables of AWS first: what the URL says wins
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    for (option, time) in [("timeout", LONGEST), ("connect_timeout", CONNECT)] {
        builder = with(builder, option, Some(&format!("{} seconds", time.as_secs())));
    }
    if url.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http") {
        builder = builder.with_allow_http(true);
    }
    let in_host = match url.addressing {
        Addressing::Usual => url.endpoint.is_none(),
        Addressing::Path => false,
        Addressing::Host => true,
    };
    if let Some(endpoint) = &url.endpoint {
        builder = builder.with_endpoint(address(endpoint, in_host.then_some(&*url.bucket)));
    }
    builder = builder.with_virtual_hosted_style_request(in_host);
    if let Some(region) = &url.region {
        builder = builder.with_region(region);
    }
    if let Some(folder) = &url.credentials_dir {
        builder = builder.with_credentials(Arc::new(Folder(folder.clone())));
    }
    let encryption = match &url.encryption {
        Encryption::OfBucket => None,
        Encryption::Aes256 => Some("AES256"),
        Encryption::Kms(key) => {
            builder = with(builder, "aws_sse_kms_key_id", key.as_deref());
            Some("aws:kms")
        }
    };
    with(builder, "aws_server_side_encryption", encryption)
}

/// Sets what `object_store` has by name only.
fn with(builder: AmazonS3Builder, option: &str, value: Option<&str>) -> AmazonS3Builder {
    match (option.parse(), value) {
        (Ok(option), Some(value)) => builder.with_config(option, value),
        (Ok(_) | Err(_), _) => builder,
    }
}

/// The endpoint as `object_store` wants it: with the bucket, where it is in the host.
fn address(endpoint: &Url, bucket: Option<&str>) -> String {
    let mut endpoint = endpoint.clone();
    if let (Some(bucket), Some(host)) = (bucket, endpoint.host_str().map(str::to_owned)) {
        // an address of numbers has no names below it: then the service is asked as it is
        let _is_a_name = endpoint.set_host(Some(&format!("{bucket}.{host}")));
    }
    endpoint.as_str().trim_end_matches('/').to_owned()
}
