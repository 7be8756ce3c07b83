//! The section `tls` of a result.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::stats::Handshakes;
use crate::tls::{Tls, Trust};

/// What the first handshake agreed on, and how the node was verified.
pub fn agreed(tls: &Tls) -> Value {
    let facts = tls.facts();
    json!({
        "version": facts.map(|facts| &facts.version),
        "cipher_suite": facts.map(|facts| &facts.cipher_suite),
        "key_exchange": facts.map(|facts| &facts.key_exchange),
        "server_key": facts.map(|facts| &facts.server_key),
        "trust": tls.trust,
        "is_verified": tls.trust != Trust::Nobody,
        "client_certificate": tls.shows_certificate,
    })
}

/// Null for a `ws://` URL. `node` is the growth of the node's own counters.
pub fn section(
    tls: Option<&Tls>,
    handshakes: &Handshakes,
    node: Option<&BTreeMap<String, u64>>,
) -> Value {
    let Some(tls) = tls else { return Value::Null };
    let mut section = agreed(tls);
    section["resume"] = tls.resumes.into();
    section["handshakes_full"] = handshakes.full.into();
    section["handshakes_resumed"] = handshakes.resumed.into();
    section["own_cpu_ns_full"] = handshakes.full_cpu_ns.checked_div(handshakes.full).into();
    section["own_cpu_ns_resumed"] =
        handshakes.resumed_cpu_ns.checked_div(handshakes.resumed).into();
    section["ended_without_close_notify"] = handshakes.unclosed.into();
    section["node"] = json!(node);
    section
}
