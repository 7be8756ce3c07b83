use super::*;
use crate::tls::load::TlsSettings;
use exo_ingest_harness::certificates::{Authority, Issued, write_private};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio_uring::start;

/// A directory with a certificate and its key.
struct Place {
    directory: tempfile::TempDir,
    ca: Authority,
    settings: TlsSettings,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let settings = TlsSettings {
            identities: vec![(at("cert.pem"), at("key.pem"))],
            ..TlsSettings::default()
        };
        let place = Place { ca: Authority::new("test CA"), directory, settings };
        let issued = place.ca.issue(&["one.example"]);
        place.write("cert.pem", &issued.chain_pem);
        place.write("key.pem", &issued.key_pem);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        write_private(&self.at(name), text);
    }

    fn write_both(&self, issued: &Issued) {
        self.write("cert.pem", &issued.chain_pem);
        self.write("key.pem", &issued.key_pem);
    }
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded
        .certificates
        .iter()
        .flat_map(|certificate| certificate.certificate.dns_names.clone())
        .collect()
}

#[test]
fn files_are_read_once_they_have_changed_and_hold_still() {
    start(async {
        let place = Place::new();
        let (mut files, loaded) = TlsFiles::open(place.settings.clone()).await.unwrap();
        assert_eq!((names(&loaded), loaded.warnings.len()), (vec!["one.example".to_owned()], 0));
        assert!(files.poll().await.is_none());

        // The new certificate is there and its key is not: both stay as they were, and there is no
        // other attempt.
        let next = place.ca.issue(&["two.example"]);
        place.write("cert.pem", &next.chain_pem);
        assert!(files.poll().await.is_none(), "a change seen once may still continue");
        let refused = files.poll().await.unwrap().unwrap_err();
        assert!(matches!(&refused, TlsFileError::Refused(_)) && !refused.may_pass(), "{refused}");
        assert!(
            refused.to_string().contains("key.pem") && refused.to_string().contains("cert.pem"),
            "{refused}"
        );
        assert!(files.poll().await.is_none(), "a refusal is reported once");
        place.write("key.pem", &next.key_pem);
        assert!(files.poll().await.is_none());
        assert_eq!(names(&files.poll().await.unwrap().unwrap()), ["two.example"]);

        // On request, without waiting.
        place.write_both(&place.ca.issue(&["three.example"]));
        assert_eq!(names(&files.reload().await.unwrap()), ["three.example"]);
        assert!(files.poll().await.is_none());
    });
}

#[test]
fn a_file_that_is_missing_is_named() {
    start(async {
        let place = Place::new();
        std::fs::remove_file(place.at("key.pem")).unwrap();
        let error = TlsFiles::open(place.settings.clone()).await.unwrap_err();
        assert!(error.to_string().contains("key.pem") && !error.may_pass(), "{error}");
        std::fs::create_dir(place.at("key.pem")).unwrap();
        let error = TlsFiles::open(place.settings.clone()).await.unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    });
}

#[test]
fn a_key_that_every_user_may_read_gets_a_warning() {
    start(async {
        let mut place = Place::new();
        place.settings.ticket_keys = Some(place.at("tickets"));
        place.write("tickets", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
        let open_to_all = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        open_to_all(&place.at("cert.pem"));
        let (mut files, loaded) = TlsFiles::open(place.settings.clone()).await.unwrap();
        assert_eq!(
            (loaded.warnings.len(), loaded.ticket_keys),
            (0, Some(1)),
            "{:?}",
            loaded.warnings
        );
        ["key.pem", "tickets"].iter().for_each(|name| open_to_all(&place.at(name)));
        let warnings = files.reload().await.unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("chmod o-r")), "{warnings:?}");
    });
}
