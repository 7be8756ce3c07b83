//! `calls export -o`: what happens to files that exist already, and to planted links.

use crate::EXO_INGEST;
use exo_ingest::archive::image::{self, Image};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Bytes of the call's audio, and of its file.
const AUDIO_SIZE: usize = 8_000;
const FILE_SIZE: usize = AUDIO_SIZE + 44;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// A journal with the call `acme/one`, and an empty directory `out`.
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let mut image = Image::new(image::run(1), 0, 64 * 1024).expect("an image");
        let call = image.start("acme", "one", 8_000);
        for value in 1..=5 {
            image.frame(call, &[value; AUDIO_SIZE / 5]);
        }
        image.end(call, 5);
        image.seal();
        image.store(&directory.path().join("data")).expect("room");
        fs::create_dir(directory.path().join("out")).expect("a directory");
        Place { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("out").join(name)
    }

    /// The names in `out`, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("out")).expect("a directory");
        let names =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn command(&self, output: &Path) -> Command {
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args(["calls", "export", "acme/one", "-o"]).arg(output);
        command.arg("--data-dir").arg(self.directory.path().join("data")).stdin(Stdio::null());
        command
    }

    fn export(&self, output: &Path) -> Output {
        self.command(output).output().expect("the binary")
    }

    /// An export that must succeed.
    #[track_caller]
    fn exported(&self, output: &Path) {
        let output = self.export(output);
        assert!(
            output.status.success(),
            "{} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[track_caller]
fn assert_recording(path: &Path) {
    let found = path.symlink_metadata().expect("it is there");
    assert!(found.is_file(), "{path:?} is no file");
    assert_eq!((found.len(), found.mode() & 0o777), (FILE_SIZE as u64, 0o600), "{path:?}");
    assert_wav(&fs::read(path).expect("ours"));
}

#[track_caller]
fn assert_wav(bytes: &[u8]) {
    assert_eq!((bytes.len(), &bytes[..4]), (FILE_SIZE, &b"RIFF"[..]));
    assert_eq!(bytes[40..44], (AUDIO_SIZE as u32).to_le_bytes());
    assert_eq!((bytes[44], bytes[FILE_SIZE - 1]), (1, 5));
}

/// The test makes its own devices and links: an error as root must not destroy the host's
/// `/dev/null`.
#[test]
fn a_device_and_a_fifo_stay_what_they_are() {
    let place = Place::new();
    let device = place.at("null");
    match mknodat(
        CWD,
        &device,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    ) {
        Ok(()) => {
            // A mount may forbid devices. Then it cannot be opened, and it must still stay.
            match File::options().write(true).open(&device) {
                Ok(_) => place.exported(&device),
                Err(error) => println!("left out, no device can be opened here: {error}"),
            }
            let _ = place.export(&device);
            assert!(device.symlink_metadata().expect("it stays").file_type().is_char_device());
            fs::remove_file(&device).expect("ours");
        }
        Err(error) => println!("left out, no device can be made: {error}"),
    }

    let fifo = place.at("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo");
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).expect("a fifo")
    });
    place.exported(&fifo);
    assert!(fifo.symlink_metadata().expect("it stays").file_type().is_fifo());
    assert_wav(&reader.join().expect("it reads"));
    assert_eq!(place.names(), ["fifo"]);
}

#[test]
fn a_link_stays_and_what_it_points_to_is_replaced_or_made() {
    let place = Place::new();
    fs::write(place.at("old.wav"), "old").expect("a file");
    fs::set_permissions(place.at("old.wav"), PermissionsExt::from_mode(0o644)).expect("ours");
    for (link, target) in [("link", "old.wav"), ("dangling", "new.wav")] {
        symlink(target, place.at(link)).expect("a link");
        place.exported(&place.at(link));
        assert!(place.at(link).symlink_metadata().expect("it stays").is_symlink(), "{link}");
        assert_recording(&place.at(target));
    }
    assert_eq!(place.names(), ["dangling", "link", "new.wav", "old.wav"]);
}

#[test]
fn nothing_beside_the_target_is_followed_or_used() {
    let place = Place::new();
    let victim = place.directory.path().join("victim");
    fs::write(&victim, "precious").expect("a file");
    symlink(&victim, place.at("call.wav.part")).expect("a link");
    place.exported(&place.at("call.wav"));
    assert_recording(&place.at("call.wav"));
    assert_eq!(fs::read(&victim).expect("ours"), b"precious");

    fs::write(place.at("next.wav.part"), "left over").expect("a file");
    fs::set_permissions(place.at("next.wav.part"), PermissionsExt::from_mode(0o644)).expect("ours");
    place.exported(&place.at("next.wav"));
    assert_recording(&place.at("next.wav"));
    assert_eq!(fs::read(place.at("next.wav.part")).expect("ours"), b"left over");
    assert_eq!(place.names(), ["call.wav", "call.wav.part", "next.wav", "next.wav.part"]);
}

#[test]
fn standard_output_by_its_path_is_standard_output() {
    let place = Place::new();
    // A link like `/dev/stdout`.
    let link = place.at("stdout");
    symlink("/proc/self/fd/1", &link).expect("a link");
    let link = link.to_str().expect("UTF-8");
    for path in [link, "/dev/fd/1", "/proc/self/fd/1"] {
        let output = place.export(Path::new(path));
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        assert_wav(&output.stdout);
        // A file that a shell has opened keeps its name and its earlier bytes.
        let file = place.at("redirected");
        fs::write(&file, "before").expect("a file");
        let number = file.metadata().expect("ours").ino();
        let appended = File::options().append(true).open(&file).expect("ours");
        assert!(
            place.command(Path::new(path)).stdout(appended).status().expect("the binary").success(),
            "{path}"
        );
        let bytes = fs::read(&file).expect("ours");
        assert_eq!(
            (&bytes[..6], file.metadata().expect("ours").ino()),
            (&b"before"[..], number),
            "{path}"
        );
        assert_wav(&bytes[6..]);
    }
    assert!(Path::new(link).symlink_metadata().expect("it stays").is_symlink());
    let output = place.command(Path::new(link)).arg("--json").output().expect("the binary");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[test]
fn a_directory_gets_a_file_in_it_and_one_that_takes_no_file_is_an_error_that_says_so() {
    let place = Place::new();
    for (path, file) in [("in-out/", "in-out"), ("new/one/", "new/one"), ("", "")] {
        place.exported(&place.at(path));
        assert_recording(&place.at(file).join("acme/one-1.wav"));
        fs::remove_dir_all(place.directory.path().join("out")).expect("ours");
        fs::create_dir(place.directory.path().join("out")).expect("ours");
    }
    // Root may write to all directories except the kernel's.
    let directory = place.directory.path().join("read-only");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o555)).expect("ours");
    let is_root = rustix::process::geteuid().is_root();
    let directory = if is_root { PathBuf::from("/proc/self") } else { directory };
    let output = place.export(&directory.join("call.wav"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains(&format!("no file can be made in {}", directory.display())),
        "{errors}"
    );
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn an_export_that_a_signal_ends_leaves_nothing() {
    let place = Place::new();
    // The signal comes at any moment. A whole recording is left, or nothing.
    for round in 0..20 {
        let mut child =
            place.command(&place.at("call.wav")).stderr(Stdio::null()).spawn().expect("the binary");
        std::thread::sleep(std::time::Duration::from_millis(round));
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        child.wait().expect("it is ours");
        assert!(place.names().iter().all(|name| name == "call.wav"), "{:?}", place.names());
    }
}
