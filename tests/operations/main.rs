//! What an operator sees: start, readiness, metrics, logs, drain.

#![forbid(unsafe_code)]

mod admin_classic;
mod admin_listener;
mod admin_metrics;
mod admin_page;
mod admin_ready;
mod admin_status;
mod call_log;
mod doctor;
mod drain;
mod host_requirements;
mod host_script;
mod latencies;
mod refusal_log;
mod seccomp_profile;
mod settings_reload;
mod soak_report;
mod socket_activation;
mod standstill;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
