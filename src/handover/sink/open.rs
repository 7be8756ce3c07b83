//! URLs and options of stores.

#![forbid(unsafe_code)]

use super::retry::{OnRetry, Retry};
use super::{LOOKUP_STEP, ObjectSink, SinkError, create_only};
use crate::handover::ca;
use crate::handover::secrets::{hide, hide_in_url};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attribute, Certificate, ClientOptions, Error, ObjectStore, PutOptions, RetryConfig, TagSet,
};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A request takes no longer than this: a slice of 17 MiB over a slow line.
const TIMEOUT: &str = "120 s";

/// Where an archive is, and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// `file:///DIR`, `s3://BUCKET/PREFIX`, `gs://…` or `az://…`.
    pub url: String,
    /// Keys and values: of the store, `storage_class`, `tag.NAME`, or `ca` with a file.
    pub options: Vec<(String, String)>,
    /// How long a request is made again before it fails.
    pub give_up: Duration,
    /// Make a directory that does not exist.
    pub creates_directory: bool,
}

/// The option that names a file with certificates.
pub(crate) const CA: &str = "ca";

/// Makes the client of a store. It knows more CAs than the system does.
#[derive(Clone, Debug, Default)]
struct Connector {
    certificates: Vec<Certificate>,
}

impl Connector {
    /// Adds the certificates in a file.
    fn add(&mut self, path: &std::path::Path) -> Result<(), String> {
        for der in ca::read(path)? {
            let certificate = Certificate::from_der(&der)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            self.certificates.push(certificate);
        }
        Ok(())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, Error> {
        let mut options = options.clone();
        for certificate in &self.certificates {
            options = options.with_root_certificate(certificate.clone());
        }
        ReqwestConnector::default().connect(&options)
    }
}

/// Options that every kind of store has.
struct Common {
    puts: PutOptions,
    connector: Connector,
    /// The others.
    rest: Vec<(String, String)>,
}

impl SinkOptions {
    /// Opens the store. It sends no request.
    pub fn open(&self, on_retry: OnRetry) -> Result<ObjectSink, SinkError> {
        crate::tls::use_ring();
        let (scheme, rest) = self.url.split_once("://").ok_or_else(|| self.bad_url())?;
        let common = self.common()?;
        // Requests are made again by us: so each is told, and a pause does not hold a slot.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let opened: Result<(Arc<dyn ObjectStore>, Path), Error> = match scheme {
            "file" => return self.open_directory(rest, common, on_retry),
            "s3" | "s3a" => self.s3(&common, retry).map(|store| (store, prefix(rest))),
            "gs" => {
                let start = GoogleCloudStorageBuilder::from_env().with_url(&self.url);
                let start = start.with_http_connector(common.connector);
                let mut options = with_timeout(&common.rest);
                let built = options.try_fold(start.with_retry(retry), |builder, (key, value)| {
                    Ok(builder.with_config(key.to_ascii_lowercase().parse()?, value))
                });
                let built = built.and_then(GoogleCloudStorageBuilder::build);
                built.map(|store| (Arc::new(store) as _, prefix(rest)))
            }
            "az" | "azure" | "abfs" | "abfss" => {
                let start = MicrosoftAzureBuilder::from_env().with_url(&self.url);
                let start = start.with_http_connector(common.connector);
                let mut options = with_timeout(&common.rest);
                let built = options.try_fold(start.with_retry(retry), |builder, (key, value)| {
                    Ok(builder.with_config(key.to_ascii_lowercase().parse()?, value))
                });
                let built = built.and_then(MicrosoftAzureBuilder::build);
                built.map(|store| (Arc::new(store) as _, prefix(rest)))
            }
            _ => return Err(self.bad_url()),
        };
        let (store, prefix) = opened.map_err(|error| self.bad_option(&error))?;
        Ok(self.sink(store, prefix, common.puts, on_retry))
    }

    fn s3(&self, common: &Common, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, Error> {
        let options = &common.rest;
        let mut builder = AmazonS3Builder::from_env().with_url(&self.url).with_retry(retry);
        // The store checks this sum before it answers.
        builder = builder.with_config("checksum_algorithm".parse()?, "crc64nvme");
        builder = builder.with_http_connector(common.connector.clone());
        let environment = std::env::vars().filter(|(key, _)| key.starts_with("AWS_"));
        let mut given: Vec<String> = environment.map(|(key, _)| key.to_ascii_lowercase()).collect();
        given.extend(options.iter().map(|(key, _)| key.to_ascii_lowercase()));
        let has = |name: &str| given.iter().any(|key| key.trim_start_matches("aws_") == name);
        // TLS and the checksum protect the body. Without TLS its signature does.
        if !has("allow_http") && !has("unsigned_payload") {
            builder = builder.with_unsigned_payload(true);
        }
        for (key, value) in with_timeout(options) {
            builder = builder.with_config(key.to_ascii_lowercase().parse()?, value);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn open_directory(
        &self,
        path: &str,
        common: Common,
        on_retry: OnRetry,
    ) -> Result<ObjectSink, SinkError> {
        if let Some((key, _)) = common.rest.first() {
            return Err(SinkError::Usage(format!("a directory has no option {key}: leave it out")));
        }
        if !path.starts_with('/') {
            return Err(SinkError::Usage(format!(
                "{} has no absolute path: write file:///DIR, with three slashes",
                self.url
            )));
        }
        let dir = PathBuf::from(path);
        let made = match self.creates_directory {
            // Recordings are private.
            true => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir),
            false => std::fs::metadata(&dir).map(drop),
        };
        let failed = |error: &dyn std::fmt::Display| {
            SinkError::Store(format!("cannot open the directory {}: {error}", dir.display()))
        };
        made.map_err(|error| failed(&error))?;
        let store = LocalFileSystem::new_with_prefix(&dir)
            .map_err(|error| failed(&error))?
            .with_fsync(true);
        Ok(self.sink(Arc::new(store), Path::default(), create_only(), on_retry))
    }

    fn sink(
        &self,
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        puts: PutOptions,
        on_retry: OnRetry,
    ) -> ObjectSink {
        ObjectSink {
            store,
            prefix,
            url: hide_in_url(&self.url),
            puts,
            retry: Retry::new(self.give_up, on_retry),
            requests: AtomicU64::new(0),
            lookup_guess: AtomicU64::new(LOOKUP_STEP),
        }
    }

    /// Takes out the options that we pass with each object. A value `@FILE` is the file's text. It
    /// is read each time the store is opened: a forwarder opens it again after a refusal, and so
    /// finds keys that have changed.
    fn common(&self) -> Result<Common, SinkError> {
        let (mut puts, mut tags, mut rest) = (create_only(), TagSet::default(), Vec::new());
        let mut connector = Connector::default();
        for (key, value) in &self.options {
            if key == "storage_class" {
                puts.attributes.insert(Attribute::StorageClass, value.clone().into());
            } else if let Some(name) = key.strip_prefix("tag.") {
                tags.push(name, value);
            } else if key == CA {
                connector.add(std::path::Path::new(value)).map_err(SinkError::Usage)?;
            } else if let Some(path) = value.strip_prefix('@') {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    SinkError::Usage(format!("cannot read {path} for the option {key}: {error}"))
                })?;
                rest.push((key.clone(), text.trim().to_owned()));
            } else {
                rest.push((key.clone(), value.clone()));
            }
        }
        puts.tags = tags;
        Ok(Common { puts, connector, rest })
    }

    fn bad_url(&self) -> SinkError {
        SinkError::Usage(format!(
            "{:?} is no place for an archive: write file:///DIR, s3://BUCKET/PREFIX, \
             gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
            hide_in_url(&self.url)
        ))
    }

    fn bad_option(&self, error: &Error) -> SinkError {
        let url = hide_in_url(&self.url);
        SinkError::Usage(match error {
            Error::UnknownConfigurationKey { key, .. } => {
                format!("{url} has no option {key:?}: the options are listed in docs/handover.md")
            }
            error => hide(&format!("cannot use {url}: {error}")),
        })
    }
}

/// Options, and before them the time that a request may take.
fn with_timeout(options: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    let given = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    [("timeout", TIMEOUT)].into_iter().chain(given)
}

/// What follows the bucket or container in a URL.
fn prefix(rest: &str) -> Path {
    Path::from(rest.split_once('/').map_or("", |(_, prefix)| prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &[(&str, &str)]) -> Result<ObjectSink, String> {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let sink =
            SinkOptions { url: url.into(), options: options.collect(), ..SinkOptions::default() };
        sink.open(Box::new(|_| {})).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_and_options_that_are_wrong_are_named() {
        for (url, options, expected) in [
            ("bucket", &[][..], "write file:///DIR"),
            ("ftp://x/y", &[], "write file:///DIR"),
            ("file://x/y", &[], "three slashes"),
            ("file:///nowhere/at/all", &[], "cannot open the directory"),
            ("file:///tmp", &[("region", "x")], "no option region"),
            ("s3://bucket/x", &[("regoin", "x")], "no option \"regoin\""),
            (
                "s3://bucket/x",
                &[("region", "@/nowhere")],
                "cannot read /nowhere for the option region",
            ),
        ] {
            let error = open(url, options).map(drop).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn a_store_is_opened_without_a_request() {
        let sink = open(
            "s3://bucket/some/prefix",
            &[
                ("endpoint", "http://127.0.0.1:9"),
                ("allow_http", "true"),
                ("region", "us-east-1"),
                ("access_key_id", "x"),
                ("secret_access_key", "y"),
                ("aws_server_side_encryption", "aws:kms"),
                ("storage_class", "GLACIER_IR"),
                ("tag.kind", "audio"),
            ],
        );
        let sink = sink.unwrap();
        assert_eq!(sink.path("v1/n").as_ref(), "some/prefix/v1/n");
        assert_eq!(sink.puts.tags.encoded(), "kind=audio");
        assert_eq!(sink.request_count(), 0);
    }
}
