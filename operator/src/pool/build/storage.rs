//! What a pool's storages are to its pods: mounts, and variables that name them.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{EnvVar, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount};
use tallylight_crds::{PathStyle, S3Storage, ServerSideEncryption, Storage, VolumeStorage};

/// Where claims are mounted, each in a folder of the storage's name.
const CLAIMS: &str = "/var/lib/tallylight-storage";
/// Where the credentials of buckets are, likewise.
const CREDENTIALS: &str = "/etc/tallylight/storage";

/// The storages by name. A variable and not an argument: a node that is older than this operator does not know it.
pub(super) fn env(storages: &[Storage]) -> Option<EnvVar> {
    let all: Vec<String> = storages.iter().filter_map(|it| Some(format!("{}={}", it.name, url(it)?))).collect();
    let name = "TALLYLIGHT_STORAGES".to_owned();
    (!all.is_empty()).then(|| EnvVar { name, value: Some(all.join(",")), value_from: None })
}

pub(super) fn volumes(storages: &[Storage]) -> Vec<Volume> {
    storages.iter().filter_map(volume).collect()
}

pub(super) fn mounts(storages: &[Storage]) -> Vec<VolumeMount> {
    let mount = |storage: &Storage| {
        let Volume { name, secret, .. } = volume(storage)?;
        let (folder, read_only) = if secret.is_some() { (CREDENTIALS, Some(true)) } else { (CLAIMS, None) };
        let mount_path = format!("{folder}/{}", storage.name);
        Some(VolumeMount { name, mount_path, read_only, ..VolumeMount::default() })
    };
    storages.iter().filter_map(mount).collect()
}

/// The claim, or the credentials, of a storage that has one.
fn volume(storage: &Storage) -> Option<Volume> {
    let claim = storage.volume.as_ref().and_then(|volume| volume.claim_name.clone());
    let secret = storage.s3.as_ref().and_then(|s3| s3.secret_ref.clone());
    if claim.is_none() && secret.is_none() {
        return None;
    }
    Some(Volume {
        name: format!("storage-{}", storage.name),
        persistent_volume_claim: claim
            .map(|claim_name| PersistentVolumeClaimVolumeSource { claim_name, read_only: None }),
        secret: secret.map(|secret| SecretVolumeSource {
            secret_name: Some(secret.name),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    })
}

fn url(storage: &Storage) -> Option<String> {
    let folder = storage.volume.as_ref().map(|volume| {
        let VolumeStorage { claim_name, path } = volume;
        let path = path.as_deref().unwrap_or_default();
        if claim_name.is_none() { format!("file://{path}") } else { file(&storage.name, path) }
    });
    folder.or_else(|| storage.s3.as_ref().map(|s3| bucket(&storage.name, s3)))
}

fn file(name: &str, path: &str) -> String {
    let slash = if path.is_empty() { "" } else { "/" };
    format!("file://{CLAIMS}/{name}{slash}{path}")
}

fn bucket(name: &str, s3: &S3Storage) -> String {
    let prefix = s3.prefix.as_ref().map(|prefix| format!("/{prefix}")).unwrap_or_default();
    let sse = s3.server_side_encryption.and_then(|sse| match sse {
        ServerSideEncryption::None => None,
        ServerSideEncryption::Aes256 => Some("AES256"),
        ServerSideEncryption::Kms => Some("KMS"),
    });
    let path_style = s3.path_style.map(|style| match style {
        PathStyle::Enabled => "true",
        PathStyle::Disabled => "false",
    });
    let credentials = s3.secret_ref.as_ref().map(|_| format!("{CREDENTIALS}/{name}"));
    let speed = s3.max_megabits_per_second.map(|speed| speed.to_string());
    let options = [
        ("endpoint", s3.endpoint.as_deref()),
        ("region", s3.region.as_deref()),
        ("path-style", path_style),
        ("sse", sse),
        ("kms-key-id", s3.kms_key_id.as_deref()),
        ("acl", s3.acl.as_deref()),
        ("max-mbps", speed.as_deref()),
        ("credentials-dir", credentials.as_deref()),
    ];
    let options: Vec<String> =
        options.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped((*value)?)))).collect();
    let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    format!("s3://{}{prefix}{query}", s3.bucket)
}

/// All but what RFC 3986 calls unreserved: no comma, so that the list of URLs can be told apart.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // To write to a string does not fail.
            let _written = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn storages() -> Vec<Storage> {
        serde_json::from_value(json!([
            {"name": "archive", "s3": {
                "bucket": "vods", "prefix": "live/tv", "endpoint": "http://minio:9000", "region": "eu-1", "pathStyle": "Enabled",
                "secretRef": {"name": "minio"}, "serverSideEncryption": "KMS", "kmsKeyID": "arn:aws:kms:1", "maxMegabitsPerSecond": 200,
            }},
            {"name": "shared", "volume": {"claimName": "vods", "path": "live"}},
            {"name": "nfs", "volume": {"path": "/mnt/vods"}},
        ]))
        .unwrap()
    }

    #[test]
    fn each_storage_is_a_url_and_what_it_needs_is_mounted() {
        let variable = env(&storages()).unwrap();
        let expected = "archive=s3://vods/live/tv?endpoint=http%3A%2F%2Fminio%3A9000&region=eu-1&path-style=true&sse=KMS\
                        &kms-key-id=arn%3Aaws%3Akms%3A1&max-mbps=200&credentials-dir=%2Fetc%2Ftallylight%2Fstorage%2Farchive,\
                        shared=file:///var/lib/tallylight-storage/shared/live,nfs=file:///mnt/vods";
        assert_eq!(variable.value.as_deref(), Some(expected));
        assert_eq!(env(&[]), None);

        let names: Vec<_> = volumes(&storages()).into_iter().map(|volume| volume.name).collect();
        assert_eq!(names, ["storage-archive", "storage-shared"]);
        let mounts = mounts(&storages());
        assert_eq!(
            (mounts[0].mount_path.as_str(), mounts[0].read_only),
            ("/etc/tallylight/storage/archive", Some(true))
        );
        assert_eq!((mounts[1].mount_path.as_str(), mounts[1].read_only), ("/var/lib/tallylight-storage/shared", None));
    }
}
