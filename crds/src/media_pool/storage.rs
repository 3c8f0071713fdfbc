//! Where a pool's recordings are kept.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nothing can reach it")]

use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::broadcast;

/// A place for recordings, on a volume or in S3.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.volume) != has(self.s3)").message("a storage is either a volume or s3"),
    validation = Rule::new("self.name != 'local'").message("local is the data folder of a node; give the storage another name"),
)]
pub struct Storage {
    /// Name, unique in the pool.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A folder of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStorage>,
    /// A bucket of S3, or of what speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Storage>,
}

/// A folder of the nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.claimName) || has(self.path)").message("a volume needs a claimName or a path"),
    validation = Rule::new("!has(self.path) || has(self.claimName) != self.path.startsWith('/')")
        .message("path must be relative to the claim, or absolute without one"),
    validation = Rule::new("!has(self.path) || !self.path.matches('(^|/)[.][.]?(/|$)')").message("path must not contain . or .. as a folder"),
)]
pub struct VolumeStorage {
    /// PersistentVolumeClaim in this namespace that every node of the pool mounts; a pool of several nodes needs one that they can share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: Option<String>,
    /// Folder in the claim; without claimName, an absolute path that nodes.template.volumeMounts has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9._/-]+$"))]
    pub path: Option<String>,
}

/// A bucket of S3.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.kmsKeyID) || (has(self.serverSideEncryption) && self.serverSideEncryption == 'KMS')")
        .message("kmsKeyID is for serverSideEncryption KMS only"),
)]
pub struct S3Storage {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// What the keys of all objects begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub prefix: Option<String>,
    /// URL of the service, when it is not AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = broadcast::is_url(), validation = broadcast::is_http(), validation = broadcast::has_host(),
             validation = broadcast::has_no_fragment(), validation = broadcast::has_no_user())]
    pub endpoint: Option<String>,
    /// Region; us-east-1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub region: Option<String>,
    /// Whether the bucket is in the path of URLs and not in their host; Enabled by default when there is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<PathStyle>,
    /// Secret in this namespace with the keys access-key-id and secret-access-key; without it, the nodes' own identity is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<StorageSecretRef>,
    /// Encryption by the service; None leaves it to the bucket's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// Key of serverSideEncryption KMS.
    #[serde(rename = "kmsKeyID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^[A-Za-z0-9:/_-]+$"))]
    pub kms_key_id: Option<String>,
    /// Canned ACL of the objects, as S3 spells it; private by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z-]+$"))]
    pub acl: Option<String>,
    /// Most that a node uploads there, in Mbit/s; unlimited by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 400_000))]
    pub max_megabits_per_second: Option<i32>,
}

/// Where the bucket is in URLs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum PathStyle {
    /// In the path.
    Enabled,
    /// In the host.
    Disabled,
}

/// Encryption by the service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ServerSideEncryption {
    None,
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "KMS")]
    Kms,
}

/// A Secret in the object's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StorageSecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// Two storages of one name could not be told apart.
pub(super) fn names_are_unique() -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a.name == b.name))").message("storages must have different names")
}
