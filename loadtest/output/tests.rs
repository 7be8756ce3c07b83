use super::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// The names in a directory, without the expected ones.
fn others(directory: &Path, expected: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !expected.contains(&name.as_str())).collect()
}

#[test]
fn a_new_file_is_private_until_it_is_whole_and_has_its_mode_then() {
    let directory = tempfile::tempdir().unwrap();
    for (name, wanted) in [("private", PRIVATE), ("public", PUBLIC)] {
        let path = directory.path().join(name);
        let output = Output::create(&path, wanted).unwrap();
        assert!(output.is_new() && !output.is_stdout() && !path.exists());
        assert_eq!(output.file().metadata().unwrap().mode() & 0o777, PRIVATE);
        output.file().write_all(b"text").unwrap();
        output.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"text".to_vec(), wanted & !umask()));
    }
    assert_eq!(others(directory.path(), &["private", "public"]), [""; 0]);
}

#[test]
fn what_is_not_finished_leaves_the_old_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let output = Output::create(&path, PRIVATE).unwrap();
    output.file().write_all(b"half").unwrap();
    drop(output);
    assert_eq!(
        (fs::read(&path).unwrap(), others(directory.path(), &["file"]).len()),
        (b"old".to_vec(), 0)
    );
    write(&path, b"new", PRIVATE).unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
}

#[test]
fn links_are_resolved_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("below")).unwrap();
    fs::write(at("below/there"), "old").unwrap();
    for (link, to, target) in [
        ("one", at("below/there"), "below/there"),
        ("relative", "below/there".into(), "below/there"),
        ("chain", "relative".into(), "below/there"),
        ("dangling", "below/not-yet".into(), "below/not-yet"),
    ] {
        symlink(to, at(link)).unwrap();
        write(&at(link), link.as_bytes(), PRIVATE).unwrap();
        assert!(at(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        assert!(at(target).symlink_metadata().unwrap().is_file(), "{link}");
        assert_eq!(
            (fs::read(at(target)).unwrap(), mode(&at(target))),
            (link.as_bytes().to_vec(), 0o600)
        );
    }
    symlink("round", at("round")).unwrap();
    let error = write(&at("round"), b"x", PRIVATE).unwrap_err();
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::LOOP));
}

#[test]
fn a_link_that_another_user_left_in_a_shared_directory_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("left out, only root can make another user's link");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (shared, victim) = (directory.path().join("shared"), directory.path().join("victim"));
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    fs::write(&victim, "precious").unwrap();
    let link = shared.join("call.wav");
    symlink(&victim, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(61_500), None).unwrap();
    let error = write(&link, b"x", PRIVATE).unwrap_err();
    assert_eq!(
        (error.kind(), fs::read(&victim).unwrap()),
        (ErrorKind::PermissionDenied, b"precious".to_vec())
    );
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    write(&link, b"x", PRIVATE).unwrap();
}

#[test]
fn fifos_and_devices_are_written_to_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let link = directory.path().join("link");
    symlink(&fifo, &link).unwrap();
    for path in [&fifo, &link] {
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        let output = Output::create(path, PRIVATE).unwrap();
        assert!(!output.is_new());
        output.file().write_all(b"text").unwrap();
        output.finish().unwrap();
        assert_eq!(reader.join().unwrap(), b"text");
        assert!(fifo.symlink_metadata().unwrap().file_type().is_fifo());
    }
    // Devices that the test makes: a fault as root must not remove `/dev/null` of the host.
    for (name, minor, expected) in [("null", 3, None), ("full", 7, Some(ErrorKind::StorageFull))] {
        let device = directory.path().join(name);
        let mode = Mode::from_raw_mode(0o666);
        let made =
            mknodat(CWD, &device, FileType::CharacterDevice, mode, rustix::fs::makedev(1, minor));
        if made.is_err() || OpenOptions::new().write(true).open(&device).is_err() {
            println!("left out, no device can be made and opened here");
        } else {
            assert_eq!(write(&device, b"text", PRIVATE).err().map(|error| error.kind()), expected);
            assert!(device.symlink_metadata().unwrap().file_type().is_char_device());
        }
        let _ = fs::remove_file(&device);
    }
    assert_eq!(others(directory.path(), &["fifo", "link"]), [""; 0]);
}

#[test]
fn open_descriptors_are_known_by_their_paths() {
    for path in
        ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/0", "/proc/thread-self/fd/2"]
    {
        assert!(matches!(resolve(Path::new(path)).unwrap(), Target::Descriptor(_)), "{path}");
    }
    for path in ["/dev/null", "/proc/self/fd/x", "fd/1"] {
        assert!(!is_descriptor(Path::new(path)), "{path}");
    }
    assert!(Output::create(Path::new("/proc/self/fd/1"), PRIVATE).unwrap().is_stdout());
    // One of our descriptors with another number: a pipe, as a shell's `>(…)` passes it.
    let (mut reader, writer) = io::pipe().unwrap();
    let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    write(Path::new(&path), b"text", PRIVATE).unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn directories_and_places_that_take_no_file_are_errors_that_say_so() {
    let directory = tempfile::tempdir().unwrap();
    for path in
        [directory.path().to_owned(), "/".into(), "..".into(), directory.path().join("new/")]
    {
        let error = write(&path, b"x", PRIVATE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IsADirectory, "{path:?}");
    }
    assert_eq!(write(Path::new(""), b"x", PRIVATE).unwrap_err().kind(), ErrorKind::InvalidInput);
    // Not even root can make files there.
    for path in ["/proc/self/new", "/nonexistent/new"] {
        let error = write(Path::new(path), b"x", PRIVATE).unwrap_err().to_string();
        assert!(error.contains("no file can be made in /"), "{error}");
    }
}

#[test]
fn a_new_file_replaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("file"), directory.path().join("link"));
    write_new(&path, b"first", PRIVATE).unwrap();
    symlink("nowhere", &link).unwrap();
    for path in [&path, &link, &directory.path().to_owned()] {
        assert_eq!(
            write_new(path, b"second", PRIVATE).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
    }
    let late = directory.path().join("late");
    let output = Output::create(&late, PRIVATE).unwrap();
    fs::write(&late, "another's").unwrap();
    assert_eq!(output.finish_new().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        (fs::read(&path).unwrap(), fs::read(&late).unwrap()),
        (b"first".to_vec(), b"another's".to_vec())
    );
    assert_eq!(others(directory.path(), &["file", "link", "late"]), [""; 0]);
}
