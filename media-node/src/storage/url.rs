//! Reads the URL of a storage: `file:///PATH`, or `s3://BUCKET/PREFIX?OPTION=VALUE&…`. Pure.

use std::{path::PathBuf, str::FromStr};

use url::Url;

/// Where a storage is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    Folder(PathBuf),
    Bucket(Box<BucketUrl>),
}

/// A bucket, and how it is used. Holds no credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketUrl {
    pub bucket: String,
    /// What all keys begin with; empty, or without a `/` at its ends.
    pub prefix: String,
    /// URL of the service, when it is not AWS.
    pub endpoint: Option<Url>,
    pub region: Option<String>,
    pub addressing: Addressing,
    pub encryption: Encryption,
    /// Canned ACL of each object, as S3 spells it.
    pub acl: Option<String>,
    pub max_megabits_per_second: Option<u32>,
    /// Folder with the files `access-key-id` and `secret-access-key`.
    pub credentials_dir: Option<PathBuf>,
}

/// Where URLs of the service name the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// In the path with an endpoint, and in the host without.
    #[default]
    Usual,
    Path,
    Host,
}

/// Encryption by the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket is set up.
    #[default]
    OfBucket,
    Aes256,
    /// With that key, or the account's own for S3.
    Kms(Option<String>),
}

/// A storage and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedStorage {
    pub name: String,
    pub url: StorageUrl,
}

/// Why a URL is none of a storage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a storage is file:///PATH or s3://BUCKET/PREFIX")]
    Form,
    #[error("a folder is an absolute path without a host, as file:///PATH")]
    Folder,
    #[error("credentials do not belong in a URL; use credentials-dir, or the variables of AWS")]
    Credentials,
    #[error(
        "unknown option {0}; the options are endpoint, region, path-style, sse, kms-key-id, acl, max-mbps and credentials-dir"
    )]
    UnknownOption(String),
    #[error("option {option} must be {wanted}")]
    Option { option: &'static str, wanted: &'static str },
    #[error("a named storage is NAME=URL, where NAME has small letters, digits and -, 40 at most")]
    Name,
}

impl FromStr for NamedStorage {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, url) = text.split_once('=').ok_or(Invalid::Name)?;
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(is_plain) {
            return Err(Invalid::Name);
        }
        Ok(Self { name: name.to_owned(), url: url.parse()? })
    }
}

impl FromStr for StorageUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let url = Url::parse(text).map_err(|_invalid| Invalid::Form)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Invalid::Credentials);
        }
        match url.scheme() {
            "file" => {
                let is_plain = url.query().is_none() && url.fragment().is_none();
                let path = url.to_file_path().ok().filter(|_| is_plain).ok_or(Invalid::Folder)?;
                Ok(Self::Folder(path))
            }
            "s3" => bucket(&url).map(|bucket| Self::Bucket(Box::new(bucket))),
            _ => Err(Invalid::Form),
        }
    }
}

fn bucket(url: &Url) -> Result<BucketUrl, Invalid> {
    let name = url.host_str().filter(|name| !name.is_empty()).ok_or(Invalid::Form)?;
    if url.port().is_some() || url.fragment().is_some() {
        return Err(Invalid::Form);
    }
    let prefix = url.path().trim_matches('/').to_owned();
    let mut bucket = BucketUrl { bucket: name.to_owned(), prefix, ..BucketUrl::default() };
    let mut kms_key_id = None;
    for (option, value) in url.query_pairs() {
        match &*option {
            "endpoint" => bucket.endpoint = Some(endpoint(&value)?),
            "region" => bucket.region = Some(value.into_owned()),
            "path-style" => {
                bucket.addressing = match &*value {
                    "true" => Addressing::Path,
                    "false" => Addressing::Host,
                    _ => return Err(Invalid::Option { option: "path-style", wanted: "true or false" }),
                }
            }
            "sse" => {
                bucket.encryption = match &*value {
                    "AES256" => Encryption::Aes256,
                    "KMS" => Encryption::Kms(None),
                    _ => return Err(Invalid::Option { option: "sse", wanted: "AES256 or KMS" }),
                }
            }
            "kms-key-id" => kms_key_id = Some(value.into_owned()),
            "acl" => bucket.acl = Some(acl(&value)?),
            "max-mbps" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                let wanted = "a whole number of Mbit/s, 1 or more";
                bucket.max_megabits_per_second = Some(number.ok_or(Invalid::Option { option: "max-mbps", wanted })?);
            }
            "credentials-dir" => bucket.credentials_dir = Some(PathBuf::from(&*value)),
            other => return Err(Invalid::UnknownOption(other.to_owned())),
        }
    }
    match (&mut bucket.encryption, kms_key_id) {
        (Encryption::Kms(key), id) => *key = id,
        (Encryption::OfBucket | Encryption::Aes256, None) => {}
        (Encryption::OfBucket | Encryption::Aes256, Some(_)) => {
            return Err(Invalid::Option { option: "kms-key-id", wanted: "with sse=KMS only" });
        }
    }
    Ok(bucket)
}

fn endpoint(value: &str) -> Result<Url, Invalid> {
    let is_service = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let url = Url::parse(value).ok().filter(is_service);
    let url = url.ok_or(Invalid::Option { option: "endpoint", wanted: "an http or https URL" })?;
    if url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(Invalid::Credentials) }
}

fn acl(value: &str) -> Result<String, Invalid> {
    let is_canned = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let wanted = "a canned ACL, such as private";
    is_canned.then(|| value.to_owned()).ok_or(Invalid::Option { option: "acl", wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StorageUrl, Invalid> {
        text.parse()
    }

    #[test]
    fn a_folder_is_an_absolute_path() {
        assert_eq!(parse("file:///mnt/vods"), Ok(StorageUrl::Folder("/mnt/vods".into())));
        for wrong in ["file://host/mnt", "file:///mnt?x=1", "/mnt/vods", "ftp://host/mnt", "s3:///prefix"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bucket_has_a_prefix_and_options() {
        let url = "s3://vods/live/tv?endpoint=http%3A%2F%2Fminio%3A9000&region=eu-1&path-style=true&sse=KMS\
                   &kms-key-id=arn%3Aaws%3Akms%3A1&acl=private&max-mbps=200&credentials-dir=%2Fetc%2Fkeys";
        let expected = BucketUrl {
            bucket: "vods".into(),
            prefix: "live/tv".into(),
            endpoint: Some(Url::parse("http://minio:9000").unwrap()),
            region: Some("eu-1".into()),
            addressing: Addressing::Path,
            encryption: Encryption::Kms(Some("arn:aws:kms:1".into())),
            acl: Some("private".into()),
            max_megabits_per_second: Some(200),
            credentials_dir: Some("/etc/keys".into()),
        };
        assert_eq!(parse(url), Ok(StorageUrl::Bucket(Box::new(expected))));
        let plain = BucketUrl { bucket: "vods".into(), ..BucketUrl::default() };
        assert_eq!(parse("s3://vods/"), Ok(StorageUrl::Bucket(Box::new(plain))));
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (url, named) in [
            ("s3://b?regoin=x", "regoin"),
            ("s3://b?sse=AES", "sse"),
            ("s3://b?sse=AES256&kms-key-id=k", "kms-key-id"),
            ("s3://b?max-mbps=0", "max-mbps"),
            ("s3://b?path-style=maybe", "path-style"),
            ("s3://b?endpoint=minio:9000", "endpoint"),
            ("s3://b?acl=Private", "acl"),
            ("s3://key:secret@b", "credentials"),
            ("s3://b?endpoint=http%3A%2F%2Fkey%3Asecret%40minio", "credentials"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("secret@"), "{url}: {error}");
        }
    }

    #[test]
    fn a_named_storage_has_a_name() {
        let named: NamedStorage = "archive=s3://vods?region=eu-1".parse().unwrap();
        assert_eq!(named.name, "archive");
        for wrong in ["s3://vods", "=s3://vods", "Archive=s3://vods", "a b=s3://vods"] {
            assert!(wrong.parse::<NamedStorage>().is_err(), "{wrong}");
        }
    }
}
