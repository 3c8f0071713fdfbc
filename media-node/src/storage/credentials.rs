//! Credentials in a folder, as Kubernetes mounts a Secret. They are read for each request, which costs two reads of memory: a
//! Secret that is rotated is in use as soon as the kubelet has written it.

use std::{io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use object_store::{CredentialProvider, aws::AwsCredential};

/// The keys of the Secret.
const KEY_ID: &str = "access-key-id";
const SECRET: &str = "secret-access-key";
/// There with credentials that were lent for a time.
const TOKEN: &str = "session-token";

/// See the module.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

/// A credential is not there.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {}", file.display())]
pub(super) struct Unreadable {
    pub(super) file: PathBuf,
    source: io::Error,
}

impl Folder {
    async fn read(&self, name: &str) -> Result<String, Unreadable> {
        let file = self.0.join(name);
        match tokio::fs::read_to_string(&file).await {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(Unreadable { file, source }),
        }
    }

    async fn read_all(&self) -> Result<AwsCredential, Unreadable> {
        let (key_id, secret_key) = (self.read(KEY_ID).await?, self.read(SECRET).await?);
        let token = match self.read(TOKEN).await {
            Ok(token) => Some(token),
            Err(missing) if missing.source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(AwsCredential { key_id, secret_key, token })
    }
}

#[async_trait]
impl CredentialProvider for Folder {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let read = self.read_all().await;
        read.map(Arc::new).map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}
