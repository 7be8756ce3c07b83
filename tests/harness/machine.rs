//! Tests that must be apart from others. The tests of a topic run at the same time, as threads of
//! one process.

use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The variable with the name of a test that runs in a process of its own.
const OWN_PROCESS: &str = "EXO_INGEST_TEST_IN_OWN_PROCESS";

static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that keeps all cores busy. Until the guard is dropped, no other heavy test of this
/// process runs, and no [`timed_test`].
pub fn heavy_test() -> RwLockWriteGuard<'static, ()> {
    // The guard protects no data, so a failed test leaves nothing in disorder.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that fails if its node gets no CPU for a second. Until the guard is dropped, no
/// [`heavy_test`] of this process runs. Other timed tests do.
pub fn timed_test() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test in a process of its own, for a test that measures its process: memory, descriptors.
/// `path` is the test's path with the crate: `concat!(module_path!(), "::name_of_the_test")`.
#[track_caller]
pub fn in_own_process(path: &str, test: impl FnOnce()) {
    let (_, name) = path.split_once("::").expect("a path with the crate");
    if std::env::var_os(OWN_PROCESS).is_some_and(|own| own == name) {
        return test();
    }
    let program = std::env::current_exe().expect("a test has a path");
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(OWN_PROCESS, name)
        .output()
        .expect("the program of this test");
    let [said, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    println!("{said}{errors}");
    assert!(output.status.success(), "{name} failed in its own process: {}", output.status);
    assert!(said.contains("1 passed"), "{name} is not the name of this test");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_failure_in_the_other_process_is_a_failure_here() {
        let path = concat!(module_path!(), "::a_failure_in_the_other_process_is_a_failure_here");
        // Run here, it would end this process.
        let outcome = catch_unwind(|| in_own_process(path, || std::process::exit(3)));
        assert!(outcome.is_err());
    }

    #[test]
    fn a_wrong_name_is_a_failure() {
        let outcome = catch_unwind(|| in_own_process("harness::no_such_test", || ()));
        assert!(outcome.is_err());
    }

    #[test]
    fn a_heavy_test_excludes_timed_ones_which_do_not_exclude_each_other() {
        let heavy = heavy_test();
        assert!(MACHINE.try_read().is_err());
        drop(heavy);
        let _timed = (timed_test(), MACHINE.try_read().expect("no heavy test runs"));
        assert!(MACHINE.try_write().is_err());
    }
}
